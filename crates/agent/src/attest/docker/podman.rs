//! Whether a container is Podman's, and whose: Podman has a socket for each user that runs containers.

use std::path::PathBuf;

/// Who runs a container of Podman's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// The system.
    Root,
    /// This user.
    User(u32),
}

/// The owner of the Podman container that a process with these cgroup paths is in; `None` when Podman has nothing to do
/// with it. The first path that has Podman's mark decides.
#[must_use]
pub fn of(paths: &[Vec<u8>]) -> Option<Owner> {
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let path = paths.iter().map(text).find(|path| path.contains("libpod-") || path.contains("/libpod/"))?;
    Some(slice_owner(&path).map_or(Owner::Root, Owner::User))
}

/// The number in `/user-<number>.slice/`.
fn slice_owner(path: &str) -> Option<u32> {
    path.match_indices("/user-").find_map(|(at, mark)| {
        let (digits, _) = path[at + mark.len()..].split_once(".slice/")?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    })
}

/// A path with one `%d` in it, which stands for the user's number. `%%` is a percent sign.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketTemplate {
    before: String,
    after: String,
}

/// Why a template cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A percent sign with nothing after it.
    #[error("trailing % at end of template")]
    Trailing,
    /// A percent sign with something else after it.
    #[error("template only supports escaped %% or the %d UID placeholder")]
    Unknown,
    /// No place for the number, or several.
    #[error("template must contain exactly one %d UID placeholder")]
    Placeholders,
    /// Not on this machine.
    #[error("it is not the URL of a Unix socket, such as \"unix:///run/user/%d/podman/podman.sock\"")]
    Socket,
}

impl SocketTemplate {
    /// Reads `unix:///…%d…`.
    ///
    /// # Errors
    ///
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = vec![String::new()];
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter == '%' {
                match letters.next() {
                    Some('%') => {}
                    Some('d') => {
                        parts.push(String::new());
                        continue;
                    }
                    Some(_) => return Err(TemplateError::Unknown),
                    None => return Err(TemplateError::Trailing),
                }
            }
            if let Some(part) = parts.last_mut() {
                part.push(letter);
            }
        }
        let [before, after] = parts.as_slice() else { return Err(TemplateError::Placeholders) };
        let before = super::unix_path(before).ok_or(TemplateError::Socket)?;
        Ok(Self { before: before.to_owned(), after: after.clone() })
    }

    /// The socket of this user's Podman.
    #[must_use]
    pub fn of(&self, uid: u32) -> PathBuf {
        format!("{}{uid}{}", self.before, self.after).into()
    }
}

impl Default for SocketTemplate {
    fn default() -> Self {
        Self { before: "/run/user/".to_owned(), after: "/podman/podman.sock".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podman_is_known_by_its_cgroup_and_its_user_by_the_slice() {
        let check = |path: &str, owner| assert_eq!(of(&[b"/".to_vec(), path.into()]), owner, "{path}");
        check("/docker/x", None);
        check("/machine.slice/libpod-x.scope", Some(Owner::Root));
        check("/libpod/x", Some(Owner::Root));
        check("/user.slice/user-1000.slice/user@1000.service/libpod-x.scope", Some(Owner::User(1000)));
        check("/user-x.slice/user-7.slice/libpod-x", Some(Owner::User(7)));
        check("/user-99999999999.slice/libpod-x", Some(Owner::Root));
        check("/user-1000.slice", None);
    }

    #[test]
    fn a_template_has_one_place_for_the_number() {
        let of = |text| SocketTemplate::parse(text).map(|template| template.of(7));
        assert_eq!(of("unix:///run/%d/100%%/s"), Ok("/run/7/100%/s".into()));
        assert_eq!(SocketTemplate::default().of(1000), PathBuf::from("/run/user/1000/podman/podman.sock"));
        assert_eq!(of("unix:///run/s"), Err(TemplateError::Placeholders));
        assert_eq!(of("unix:///run/%d/%d"), Err(TemplateError::Placeholders));
        assert_eq!(of("unix:///run/%s"), Err(TemplateError::Unknown));
        assert_eq!(of("unix:///run/%d%"), Err(TemplateError::Trailing));
        assert_eq!(of("/run/%d"), Err(TemplateError::Socket));
    }
}
