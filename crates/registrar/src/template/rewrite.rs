//! Rewrites a parsed template: `.A.B` becomes a call of our own function; dots, variables and what functions give pass a guard; and what all of it
//! comes to is counted.

use std::collections::{BTreeMap, HashMap};

use gotmpl::parse::{BranchNode, CommandNode, Expr, ListNode, Node, PipeNode, Pos, SmolStr, TemplateNode};

use super::{MAX_NODES, TemplateError};

/// Takes fields: the names, then the value. Not a name that a template can write.
pub(super) const FIELD: &str = "field of";
/// Passes a value on.
pub(super) const GUARD: &str = "guard";

/// The functions of Go's `text/template`.
const FUNCTIONS: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print",
    "printf", "println", "slice", "urlquery",
];

/// Rewrites one template and those that it defines.
pub(super) struct Rewriter<'t> {
    name: &'t str,
    source: &'t gotmpl::Template,
    /// What each came to, and whom it calls.
    counted: BTreeMap<String, Count>,
    count: Count,
}

#[derive(Clone, Debug, Default)]
struct Count {
    nodes: u64,
    calls: Vec<SmolStr>,
}

impl<'t> Rewriter<'t> {
    pub(super) fn new(name: &'t str, source: &'t gotmpl::Template) -> Self {
        Self { name, source, counted: BTreeMap::new(), count: Count::default() }
    }

    /// All trees by name, the template's own among them.
    pub(super) fn rewrite(mut self) -> Result<Vec<(String, ListNode)>, TemplateError> {
        let source = self.source;
        let mut names = source.templates();
        if !names.contains(&self.name) {
            names.push(self.name);
        }
        let mut trees = Vec::with_capacity(names.len());
        for name in names {
            self.count = Count::default();
            let tree = match source.lookup(name) {
                Some(tree) => self.list(tree)?,
                None => ListNode { pos: Pos::new(0, 1), nodes: Vec::new() },
            };
            self.counted.insert(name.to_owned(), std::mem::take(&mut self.count));
            trees.push((name.to_owned(), tree));
        }
        let mut totals = HashMap::new();
        if self.total(self.name, &mut totals)? > MAX_NODES {
            return Err(TemplateError::TooComplex);
        }
        Ok(trees)
    }

    /// What `name` comes to with all that it calls. Who is being counted has no total yet.
    fn total<'c>(
        &'c self,
        name: &'c str,
        totals: &mut HashMap<&'c str, Option<u64>>,
    ) -> Result<u64, TemplateError> {
        match totals.get(name) {
            Some(Some(total)) => return Ok(*total),
            Some(None) => return Err(TemplateError::Recursive(name.to_owned())),
            None => {}
        }
        totals.insert(name, None);
        let Some(count) = self.counted.get(name) else {
            return Err(TemplateError::Syntax(format!("template {name:?} is not defined")));
        };
        let mut total = count.nodes;
        for called in &count.calls {
            total = total.saturating_add(self.total(called, totals)?);
        }
        totals.insert(name, Some(total));
        Ok(total)
    }

    fn list(&mut self, list: &ListNode) -> Result<ListNode, TemplateError> {
        let nodes = list.nodes.iter().map(|node| self.node(node)).collect::<Result<_, _>>()?;
        Ok(ListNode { pos: list.pos, nodes })
    }

    fn node(&mut self, node: &Node) -> Result<Node, TemplateError> {
        self.step()?;
        Ok(match node {
            Node::List(list) => Node::List(self.list(list)?),
            Node::Action(action) => {
                let mut action = action.clone();
                action.pipe = self.pipe(&action.pipe)?;
                Node::Action(action)
            }
            Node::If(branch) => Node::If(self.branch(branch)?),
            Node::Range(branch) => Node::Range(self.branch(branch)?),
            Node::With(branch) => Node::With(self.branch(branch)?),
            Node::Template(call) => Node::Template(self.call(call)?),
            Node::Text(_) | Node::Define(_) | Node::Break(_) | Node::Continue(_) => node.clone(),
        })
    }

    fn branch(&mut self, branch: &BranchNode) -> Result<BranchNode, TemplateError> {
        Ok(BranchNode {
            pos: branch.pos,
            pipe: self.pipe(&branch.pipe)?,
            body: self.list(&branch.body)?,
            else_body: branch.else_body.as_ref().map(|list| self.list(list)).transpose()?,
        })
    }

    fn call(&mut self, call: &TemplateNode) -> Result<TemplateNode, TemplateError> {
        self.count.calls.push(call.name.clone());
        let pipe = call.pipe.as_ref().map(|pipe| self.pipe(pipe)).transpose()?;
        Ok(TemplateNode { pos: call.pos, name: call.name.clone(), pipe })
    }

    fn pipe(&mut self, pipe: &PipeNode) -> Result<PipeNode, TemplateError> {
        let mut rewritten = PipeNode { commands: Vec::new(), ..pipe.clone() };
        for command in &pipe.commands {
            self.command(command, &mut rewritten.commands)?;
        }
        Ok(rewritten)
    }

    fn command(
        &mut self,
        command: &CommandNode,
        rewritten: &mut Vec<CommandNode>,
    ) -> Result<(), TemplateError> {
        let Some((first, rest)) = command.args.split_first() else { return Ok(()) };
        // `f.A x`: the field is one of what `f x` gives.
        let (first, fields) = match first {
            Expr::Chain(pos, inner, fields) if matches!(**inner, Expr::Identifier(..)) => {
                (&**inner, Some(take(*pos, fields, None)))
            }
            first => (first, None),
        };
        let mut args = vec![self.expression(first)?];
        for argument in rest {
            args.push(self.expression(argument)?);
        }
        let calls = matches!(args.first(), Some(Expr::Identifier(..)));
        rewritten.push(CommandNode { pos: command.pos, args });
        rewritten.extend(fields);
        if calls {
            // What it gives goes on to the next command.
            rewritten.push(guard(command.pos, None));
        }
        Ok(())
    }

    fn expression(&mut self, expression: &Expr) -> Result<Expr, TemplateError> {
        self.step()?;
        Ok(match expression {
            Expr::Dot(pos) => guarded(*pos, Expr::Dot(*pos)),
            Expr::Field(pos, fields) => of(*pos, fields, Expr::Dot(*pos)),
            Expr::Variable(pos, name, fields) => {
                let variable = Expr::Variable(*pos, name.clone(), Vec::new());
                if fields.is_empty() { guarded(*pos, variable) } else { of(*pos, fields, variable) }
            }
            Expr::Chain(pos, inner, fields) => {
                let inner = self.expression(inner)?;
                of(*pos, fields, inner)
            }
            Expr::Pipe(pos, pipe) => Expr::Pipe(*pos, self.pipe(pipe)?),
            Expr::Identifier(_, name) if !FUNCTIONS.contains(&name.as_str()) => {
                return Err(TemplateError::Function(name.to_string()));
            }
            Expr::Identifier(..) | Expr::String(..) | Expr::Number(..) | Expr::Bool(..) | Expr::Nil(_) => {
                expression.clone()
            }
        })
    }

    fn step(&mut self) -> Result<(), TemplateError> {
        self.count.nodes += 1;
        if self.count.nodes > MAX_NODES { Err(TemplateError::TooComplex) } else { Ok(()) }
    }
}

/// A call that takes `fields` of `value`, or of what is piped into it.
fn take(pos: Pos, fields: &[SmolStr], value: Option<Expr>) -> CommandNode {
    let names = fields.iter().map(|name| Expr::String(pos, name.as_str().into()));
    let function = Expr::Identifier(pos, SmolStr::new_static(FIELD));
    CommandNode { pos, args: std::iter::once(function).chain(names).chain(value).collect() }
}

fn of(pos: Pos, fields: &[SmolStr], value: Expr) -> Expr {
    piped(pos, take(pos, fields, Some(value)))
}

fn guarded(pos: Pos, value: Expr) -> Expr {
    piped(pos, guard(pos, Some(value)))
}

/// A call that passes `value` on, or what is piped into it.
fn guard(pos: Pos, value: Option<Expr>) -> CommandNode {
    let function = Expr::Identifier(pos, SmolStr::new_static(GUARD));
    CommandNode { pos, args: std::iter::once(function).chain(value).collect() }
}

fn piped(pos: Pos, command: CommandNode) -> Expr {
    Expr::Pipe(pos, PipeNode { pos, decl: Vec::new(), commands: vec![command], is_assign: false })
}
