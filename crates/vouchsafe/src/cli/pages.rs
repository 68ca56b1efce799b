//! Lists that a server answers page by page.

use tonic::Status;

/// All items. `page` asks for one page by its token, which is empty for the first, and returns what is on it and the
/// token of the next.
///
/// A server that names a page as its own successor would never come to an end; it is an error.
pub(super) async fn all<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Status> {
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let (mut more, next) = page(token.clone()).await?;
        items.append(&mut more);
        if next.is_empty() {
            return Ok(items);
        }
        if next == token {
            return Err(Status::internal("the server answers the same page again"));
        }
        token = next;
    }
}
