//! The `plugins` section: which implementation of each kind, with its data.

use std::path::PathBuf;

use vouchsafe_identity::config::KeyExchange;

use super::problems::Problems;
use super::section::Section;
use super::{hcl, read_text};

/// One enabled plugin.
pub(super) struct Plugin<'a> {
    pub(super) name: String,
    section: Section<'a>,
    data: Data<'a>,
}

enum Data<'a> {
    Section(Option<Section<'a>>),
    File { path: String, body: hcl::Body },
    Unreadable,
}

impl<'a> Plugin<'a> {
    /// Reads the plugin's data with `read`, then refuses what it did not ask for.
    pub(super) fn read_data<T: Default>(
        &self,
        problems: &Problems,
        read: impl FnOnce(&Section<'_>) -> T,
    ) -> T {
        match &self.data {
            Data::Unreadable => T::default(),
            Data::Section(Some(section)) => read(section),
            Data::Section(None) => read(&Section::top(&hcl::Body::default(), problems)),
            Data::File { path, body } => {
                let inner = Problems::default();
                let section = Section::top(body, &inner);
                let value = read(&section);
                section.finish();
                for problem in inner.finish(path).err().into_iter().flat_map(|invalid| invalid.problems) {
                    let place = problem.position.map(|position| format!(":{position}")).unwrap_or_default();
                    problems.add(format!("{path}{place}: {}", problem.message));
                }
                value
            }
        }
    }

    pub(super) fn problem(&self, key: &'static str, message: &str) {
        self.section.problem(key, message);
    }

    pub(super) fn position(&self) -> hcl::Position {
        self.section.position()
    }

    /// Refuses what was not asked for.
    pub(super) fn finish(self) {
        if let Data::Section(Some(data)) = self.data {
            data.finish();
        }
        self.section.finish();
    }
}

/// The enabled plugins of a kind.
pub(super) fn enabled<'a>(plugins: &Section<'a>, kind: &'static str) -> Vec<Plugin<'a>> {
    let mut found = Vec::new();
    for (name, section) in plugins.named_sections(kind) {
        let on = section.flag("enabled").unwrap_or(true);
        for key in ["plugin_cmd", "plugin_args", "plugin_checksum"] {
            section.not_built(key, "external plugins cannot be run; use one that is built in");
        }
        let data_section = section.section("plugin_data");
        let data = match section.text("plugin_data_file") {
            None => Data::Section(data_section),
            Some(_) if data_section.is_some() => {
                section
                    .problem("plugin_data_file", "only one of [plugin_data, plugin_data_file] can be used");
                Data::Unreadable
            }
            Some(_) if !on => Data::Unreadable,
            Some(path) => load_data(path, &section),
        };
        if on {
            found.push(Plugin { name, section, data });
        }
    }
    found
}

fn load_data<'a>(path: String, section: &Section<'_>) -> Data<'a> {
    let text = match read_text(std::path::Path::new(&path)) {
        Ok(text) => text,
        Err(error) => {
            section.problem("plugin_data_file", &format!("cannot read {path}: {error}"));
            return Data::Unreadable;
        }
    };
    match hcl::parse(&text) {
        Ok(body) => Data::File { path, body },
        Err(error) => {
            section.problem("plugin_data_file", &format!("{path}:{error}"));
            Data::Unreadable
        }
    }
}

/// Where private keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// In memory: new keys after each start.
    Memory,
    /// In a file.
    Disk {
        /// The file (`keys.json`).
        keys_path: PathBuf,
    },
}

/// Reads the one key manager. `disk_key` is the key of its data that `disk` needs, `to_path` makes the file of it.
pub(super) fn key_manager(
    plugins: &Section<'_>,
    problems: &Problems,
    disk_key: &'static str,
    to_path: impl Fn(String) -> PathBuf,
) -> KeyManager {
    let found = enabled(plugins, "KeyManager");
    if found.len() != 1 {
        let count = found.len();
        problems.at(
            plugins.position(),
            format!("plugins: exactly one KeyManager must be configured and enabled, not {count}; use \"disk\" or \"memory\""),
        );
    }
    let mut chosen = KeyManager::Memory;
    for plugin in found {
        match plugin.name.as_str() {
            "memory" => plugin.read_data(problems, |_| ()),
            "disk" => match plugin.read_data(problems, |data| data.text(disk_key)) {
                Some(path) => chosen = KeyManager::Disk { keys_path: to_path(path) },
                None => plugin.problem("plugin_data", &format!("{disk_key} must be configured")),
            },
            name => unsupported("KeyManager", name, &["disk", "memory"], plugin.position(), problems),
        }
        finish_if_supported(plugin, &["disk", "memory"]);
    }
    chosen
}

/// Reads `require_pq_kem`.
pub(super) fn key_exchange(section: &Section<'_>) -> KeyExchange {
    match section.flag("require_pq_kem") {
        Some(true) => KeyExchange::PostQuantum,
        _ => KeyExchange::Any,
    }
}

/// A plugin that does not exist or is not built yet.
pub(super) fn unsupported(
    kind: &str,
    name: &str,
    supported: &[&str],
    position: hcl::Position,
    problems: &Problems,
) {
    let name = crate::go::quote(name);
    let quoted: Vec<_> = supported.iter().map(|name| format!("\"{name}\"")).collect();
    let choice = match quoted.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => quoted.concat(),
    };
    problems.at(position, format!("{kind} {name} is not supported yet: use {choice}"));
}

/// Checks the keys of a plugin that is known; those of another one would only repeat that it is not.
pub(super) fn finish_if_supported(plugin: Plugin<'_>, supported: &[&str]) {
    if supported.contains(&plugin.name.as_str()) {
        plugin.finish();
    }
}

/// Refuses every enabled plugin of a kind.
pub(super) fn refuse_kind(plugins: &Section<'_>, kind: &'static str, advice: &str, problems: &Problems) {
    for plugin in enabled(plugins, kind) {
        let name = crate::go::quote(&plugin.name);
        problems.at(plugin.position(), format!("{kind} {name} is not supported yet: {advice}"));
    }
}
