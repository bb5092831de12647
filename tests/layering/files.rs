//! The import graph of the files of a crate, and the cycles in it.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{Token, tokens};

/// A path of names from the root of the crate.
type Names = Vec<String>;

/// The target of a name that a `use` brings into a file.
#[derive(Debug)]
struct Import {
    path: Names,
    /// Whether the name is re-exported with `pub use`.
    passed_on: bool,
}

/// One file, which holds one module.
#[derive(Debug, Default)]
struct File {
    path: String,
    imports: BTreeMap<String, Import>,
    /// Modules imported with `*`.
    globs: Vec<Names>,
    /// Paths in the code, as written.
    paths: BTreeSet<Names>,
    /// Every word in the code outside `use`.
    words: BTreeSet<String>,
}

/// Every file of a crate, by the path of its module.
#[derive(Debug)]
pub(super) struct Files(BTreeMap<Names, File>);

/// Maps a file to the files from which it imports, with the imported names.
type Graph = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

impl Files {
    /// Reads the sources. Each is a path below `src` and its text.
    pub(super) fn read<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let sources: Vec<_> = sources.into_iter().map(|(path, text)| (module(path), path, text)).collect();
        let modules: BTreeSet<Names> = sources.iter().map(|(module, ..)| module.clone()).collect();
        let file = |(module, path, text): (Names, &str, &str)| {
            let file = File::read(path, &tokens(text), &module, &modules);
            (module, file)
        };
        let mut files: BTreeMap<Names, File> = sources.into_iter().map(file).collect();
        files.entry(Names::new()).or_default();
        Self(files)
    }

    /// The cycles, each with the imports that form it.
    pub(super) fn circles(&self) -> Vec<String> {
        let graph = self.graph();
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            graph.keys().map(|file| (file.as_str(), reachable(&graph, file))).collect();
        let mut circles = BTreeSet::new();
        for (file, reaches) in &reached {
            let circle: BTreeSet<&str> =
                reaches.iter().copied().filter(|other| reached[other].contains(file)).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        let shown = |circle: BTreeSet<&str>| {
            let mut text = format!("a circle of {} files", circle.len());
            for file in &circle {
                for (other, names) in graph[*file].iter().filter(|(other, _)| circle.contains(other.as_str()))
                {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    text += &format!("\n  {file} -> {other}: {}", names.join(", "));
                }
            }
            text
        };
        circles.into_iter().map(shown).collect()
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (module, file) in &self.0 {
            let taken = graph.entry(file.path.clone()).or_default();
            let used = file.imports.iter().filter(|(name, import)| {
                // A name that is only re-exported does not count.
                !import.passed_on || file.words.contains(*name)
            });
            let used = used.map(|(_, import)| import.path.clone());
            for other in file.globs.iter().filter_map(|glob| self.0.get(glob)) {
                taken.entry(other.path.clone()).or_default().insert("*".to_owned());
            }
            let inline = file.paths.iter().filter_map(|path| self.absolute(module, path));
            for path in used.chain(inline) {
                match self.definer(&path, 0) {
                    Some((other, name)) if other.path != file.path => {
                        taken.entry(other.path.clone()).or_default().insert(name);
                    }
                    _ => {}
                }
            }
        }
        graph
    }

    /// Resolves a path in the code of `module` from the root. Returns `None` for paths of other crates and of local
    /// names.
    fn absolute(&self, module: &Names, path: &Names) -> Option<Names> {
        let import = self.0[module].imports.get(&path[0]);
        let imported = import.map(|import| [&import.path[..], &path[1..]].concat());
        imported.or_else(|| below(module, path, |names| self.0.contains_key(names)))
    }

    /// The file that defines the item at `path`, and the name of the item. Returns `None` if the path names a module.
    fn definer(&self, path: &[String], visited: usize) -> Option<(&File, String)> {
        // Two modules may glob-import each other, which would recurse without end.
        if visited > 16 {
            return None;
        }
        let mut module = Names::new();
        for (at, name) in path.iter().enumerate() {
            let (file, last) = (self.0.get(&module)?, at + 1 == path.len());
            let child = [&module[..], std::slice::from_ref(name)].concat();
            let is_module = self.0.contains_key(&child);
            // A module and a function may share a name. At the end of a path, the name means the function.
            if let Some(import) = file.imports.get(name).filter(|_| last || !is_module) {
                let path = [&import.path[..], &path[at + 1..]].concat();
                return self.definer(&path, visited + 1);
            }
            if !is_module {
                let of_glob = || file.globs.iter().find(|_| !file.words.contains(name));
                let path = of_glob().map(|glob| [&glob[..], &path[at..]].concat());
                return match path {
                    Some(path) => self.definer(&path, visited + 1),
                    None => Some((file, name.clone())),
                };
            }
            module = child;
        }
        None
    }
}

impl File {
    fn read(path: &str, tokens: &[Token], module: &Names, modules: &BTreeSet<Names>) -> Self {
        let mut file = Self { path: path.to_owned(), ..Self::default() };
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].is("use") {
                let end =
                    tokens[at..].iter().position(|token| token.is(";")).map_or(tokens.len(), |n| at + n);
                // Matches `pub use` and `pub(crate) use`.
                let passed_on = at > 0 && (tokens[at - 1].is("pub") || tokens[at - 1].is(")"));
                let mut tree = &tokens[at + 1..end];
                file.bring(
                    &mut tree,
                    &Names::new(),
                    &|path| below(module, path, |m| modules.contains(m)),
                    passed_on,
                );
                at = end;
            } else if tokens[at].is("mod") {
                // A module declaration is not an import.
                at += 1;
            } else if let Some(word) = tokens[at].word() {
                file.words.insert(word.to_owned());
                let mut names = vec![word.to_owned()];
                while let (Some(mark), Some(next)) = (tokens.get(at + 1), tokens.get(at + 2)) {
                    let Some(word) = next.word().filter(|_| mark.is("::")) else { break };
                    file.words.insert(word.to_owned());
                    names.push(word.to_owned());
                    at += 2;
                }
                if names.len() > 1 {
                    file.paths.insert(names);
                }
            }
            at += 1;
        }
        file
    }

    /// Records the imports in one tree of a `use`, such as `a::{b, c as d, e::*}`, below `prefix`.
    fn bring(
        &mut self,
        tree: &mut &[Token],
        prefix: &Names,
        absolute: &impl Fn(&Names) -> Option<Names>,
        passed_on: bool,
    ) {
        let mut path = prefix.clone();
        while let [token, rest @ ..] = *tree {
            *tree = rest;
            match token {
                // `use ::name` imports from another crate.
                Token::Mark("::") if path.is_empty() => path.push("::".to_owned()),
                Token::Mark("{") => {
                    while !matches!(tree, [] | [Token::Mark("}"), ..]) {
                        self.bring(tree, &path, absolute, passed_on);
                        if let [Token::Mark(","), rest @ ..] = *tree {
                            *tree = rest;
                        }
                    }
                    *tree = tree.get(1..).unwrap_or_default();
                    return;
                }
                Token::Mark("*") => {
                    self.globs.extend(absolute(&path));
                    return;
                }
                Token::Word(word) => {
                    let (inner, outer) = (word == "self" && !path.is_empty(), path.len());
                    if !inner {
                        path.push(word.clone());
                    }
                    if matches!(tree, [Token::Mark("::"), ..]) {
                        continue;
                    }
                    let name = match *tree {
                        [as_word, alias, rest @ ..] if as_word.is("as") => {
                            *tree = rest;
                            alias.word()
                        }
                        _ => path.last().map(String::as_str),
                    };
                    let name = name.unwrap_or("_").to_owned();
                    if let (Some(path), true) = (absolute(&path), outer > 0) {
                        self.imports.insert(name, Import { path, passed_on });
                    }
                    return;
                }
                Token::Mark(_) | Token::Text(_) | Token::Other(_) => {}
            }
        }
    }
}

/// The module of a file: `a/b.rs` and `a/b/mod.rs` both hold `a::b`.
fn module(path: &str) -> Names {
    let mut names: Names = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

/// Resolves a path that begins with `crate`, `self`, `super` or a module inside `module` from the root.
fn below(module: &Names, path: &Names, is_module: impl Fn(&Names) -> bool) -> Option<Names> {
    let (first, rest) = path.split_first()?;
    if first == "crate" {
        return Some(rest.to_vec());
    }
    let ups = path.iter().take_while(|name| *name == "super").count();
    if ups > 0 {
        return Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat());
    }
    if first == "self" {
        return below_self(module, rest);
    }
    let child = [&module[..], std::slice::from_ref(first)].concat();
    is_module(&child).then(|| [&module[..], path].concat())
}

/// Resolves the rest of a path after `self::`, which may begin with `super::`.
fn below_self(module: &Names, rest: &[String]) -> Option<Names> {
    let ups = rest.iter().take_while(|name| *name == "super").count();
    Some([&module[..module.len().checked_sub(ups)?], &rest[ups..]].concat())
}

/// Every file that can be reached from `start` through at least one import.
fn reachable<'a>(graph: &'a Graph, start: &str) -> BTreeSet<&'a str> {
    let (mut found, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(file) = next.pop() {
        for other in graph[file].keys() {
            if found.insert(other.as_str()) {
                next.push(other);
            }
        }
    }
    found
}
