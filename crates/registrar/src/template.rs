//! Templates in the language of Go's `text/template`, over what a template may know of a Pod.
//!
//! The engine is `gotmpl`; two things are ours. **Fields**: a name is looked up as Go does it, in the fields that the type
//! has (`go_types`): one that is not set has Go's zero value, one that does not exist is an error. Missing keys of maps are
//! empty. **Limits**: a template is bounded in size when it is parsed, also in what its own templates multiply to, and in
//! rounds of `range`, length of texts and output when it runs. A template that calls itself is refused.
//!
//! What differs from Go: methods of values cannot be called (but for the getters of `ObjectMeta`), a pointer that is not set
//! prints as `<no value>`, and one that is set counts as true when what it points at does.

mod bounded;
mod go_types;
mod object;
mod rewrite;

use std::fmt;

use gotmpl::Value;

use self::bounded::{BOUNDED, bounded};
pub use self::object::Object;
use self::rewrite::Rewriter;

/// A template that was parsed. Rendering it needs no more than [`Limits`](self) allow.
pub struct Template {
    inner: gotmpl::Template,
    text: Box<str>,
}

/// Why a template cannot be used, or gave no text.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Longer than [`MAX_TEMPLATE_BYTES`].
    #[error("the template has {0} bytes; at most {MAX_TEMPLATE_BYTES} are read")]
    TooLong(usize),
    /// Not a template.
    #[error("{0}")]
    Syntax(String),
    /// A function that does not exist.
    #[error("function {0:?} not defined")]
    Function(String),
    /// More steps than [`MAX_NODES`].
    #[error("the template comes to more than {MAX_NODES} steps")]
    TooComplex,
    /// It calls itself.
    #[error("template {0:?} calls itself")]
    Recursive(String),
    /// It could not be carried out.
    #[error("failed to execute template: {0}")]
    Execute(String),
    /// More than [`MAX_OUTPUT_BYTES`].
    #[error("the template's output is longer than {MAX_OUTPUT_BYTES} bytes")]
    Output,
}

/// What a template may know.
#[derive(Clone, Debug)]
pub struct Data<'a> {
    /// `.TrustDomain`
    pub trust_domain: &'a str,
    /// `.ClusterName`
    pub cluster_name: &'a str,
    /// `.ClusterDomain`
    pub cluster_domain: &'a str,
    /// `.PodMeta` and `.PodSpec`, unless it is a parent that is named.
    pub pod: Option<(Object, Object)>,
    /// `.NodeMeta` and `.NodeSpec`
    pub node: (Object, Object),
}

impl Template {
    /// Reads a template. `name` stands in error texts, as in Go.
    ///
    /// # Errors
    ///
    /// It is not a template, or breaks a limit.
    pub fn parse(name: &str, text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong(text.len()));
        }
        let syntax = |error: gotmpl::TemplateError| TemplateError::Syntax(error.to_string());
        // Checks what concerns all of it, such as names that are defined twice.
        let whole = gotmpl::Template::new(name).parse(text).map_err(syntax)?;
        let rewritten = Rewriter::new(name, &whole).rewrite()?;
        let mut inner = gotmpl::Template::new(name)
            .max_range_iters(MAX_ROUNDS)
            .func(rewrite::FIELD, object::field)
            .func(rewrite::GUARD, guard)
            .func("index", object::index);
        for name in BOUNDED {
            inner = inner.func(name, bounded(name));
        }
        for (name, tree) in rewritten {
            inner = inner.add_parse_tree(&name, tree);
        }
        Ok(Self { inner, text: text.into() })
    }

    /// The text that `data` makes of the template.
    ///
    /// # Errors
    ///
    /// It cannot be carried out over this data, or breaks a limit.
    pub fn render(&self, data: &Data<'_>) -> Result<String, TemplateError> {
        let mut output = Bounded::default();
        let done = self.inner.execute_template_fmt(&mut output, self.inner.name(), &data.root());
        match done {
            _ if output.full => Err(TemplateError::Output),
            Ok(()) => Ok(output.text),
            Err(error) => Err(TemplateError::Execute(error.to_string())),
        }
    }
}

impl Clone for Template {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), text: self.text.clone() }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.text)
    }
}

impl Data<'_> {
    fn root(&self) -> Value {
        let (pod_meta, pod_spec) = self.pod.clone().unzip();
        let object = |object: Option<Object>| object.map_or(Value::Nil, Object::into_value);
        object::root(vec![
            ("TrustDomain", Value::String(self.trust_domain.into())),
            ("ClusterName", Value::String(self.cluster_name.into())),
            ("ClusterDomain", Value::String(self.cluster_domain.into())),
            ("PodMeta", object(pod_meta)),
            ("PodSpec", object(pod_spec)),
            ("NodeMeta", object(Some(self.node.0.clone()))),
            ("NodeSpec", object(Some(self.node.1.clone()))),
        ])
    }
}

/// Passes a value on, unless it is a text that has grown too long.
fn guard(arguments: &[Value]) -> gotmpl::Result<Value> {
    match arguments {
        [Value::String(text)] if text.len() > MAX_TEXT_BYTES => {
            Err(gotmpl::TemplateError::Exec(format!("a text is longer than {MAX_TEXT_BYTES} bytes")))
        }
        [value] => Ok(value.clone()),
        _ => Err(gotmpl::TemplateError::Exec("one value is needed".to_owned())),
    }
}

#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.text.len() + more.len() > MAX_OUTPUT_BYTES {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(more);
        Ok(())
    }
}

/// Longest template. A longer one is refused.
pub const MAX_TEMPLATE_BYTES: usize = 16 * 1024;
/// Most steps that a template comes to, with those that it calls and without the rounds of `range`. More are refused.
pub const MAX_NODES: u64 = 2_000;
/// Most rounds of all `range` of one run. A run that needs more fails.
pub const MAX_ROUNDS: u64 = 2_000;
/// Longest text that a template may keep in a variable or hand on. A run that makes a longer one fails.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Longest output. A run that makes more fails.
pub const MAX_OUTPUT_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
