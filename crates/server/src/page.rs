//! Pages of a list: a size, and the key after which to go on as token. Pure.

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'a> {
    /// The key of the last item of the page before.
    pub(crate) after: Option<&'a str>,
    size: usize,
}

impl<'a> Page<'a> {
    /// A page of `size` items after `token`. A size of 0 or less means everything, as in SPIRE.
    pub(crate) fn new(size: i32, token: &'a str) -> Self {
        let size = usize::try_from(size).ok().filter(|size| *size > 0);
        let after = (size.is_some() && !token.is_empty()).then_some(token);
        Self { after, size: size.unwrap_or(usize::MAX) }
    }

    /// The items of this page, and the token of the next one (empty at the end).
    pub(crate) fn cut<T>(
        &self,
        items: impl Iterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> (impl Iterator<Item = T>, String) {
        let mut items = items;
        let page: Vec<T> = items.by_ref().take(self.size).collect();
        let more = self.size < usize::MAX && items.next().is_some();
        let token = page.last().filter(|_| more).map(key).unwrap_or_default();
        (page.into_iter(), token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_a_token_only_when_there_is_more() {
        let check = |size, token, expected: &[u8], next: &str| {
            let page = Page::new(size, token);
            let all = (1_u8..=5).filter(|n| page.after.is_none_or(|after| n.to_string().as_str() > after));
            let (items, token) = page.cut(all, |n| n.to_string());
            assert_eq!((items.collect::<Vec<_>>().as_slice(), token.as_str()), (expected, next));
        };
        check(0, "", &[1, 2, 3, 4, 5], "");
        check(-1, "3", &[1, 2, 3, 4, 5], "");
        check(2, "", &[1, 2], "2");
        check(2, "2", &[3, 4], "4");
        check(2, "4", &[5], "");
        check(5, "", &[1, 2, 3, 4, 5], "");
    }
}
