// Free and idle names of ES modules, by node's own parser: node --expose-internals scopes.cjs < {"file": "source"}.
//
// Prints {"file": {"undeclared": [...], "unused": [...]}}. Undeclared is what neither the module, nor its comments
// (/* global name */), nor JavaScript itself declares. Unused is what a module declares at its top or imports, but
// neither uses nor exports. Exits with 3 where node shows no parser.

const { readFileSync } = require("node:fs");
const { runInNewContext } = require("node:vm");
const { acorn, walk } = parser();

const LANGUAGE = runInNewContext("Object.getOwnPropertyNames(globalThis)");
const SCOPES = /^(Program|BlockStatement|SwitchStatement|StaticBlock|CatchClause|For\w*|.*Function.*|Class\w+)$/;

const sources = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(Object.fromEntries(Object.entries(sources).map(([name, source]) => [name, names(source)]))));

function parser() {
  try {
    const from = (name) => require(`internal/deps/acorn/${name}/dist/${name === "acorn" ? "acorn" : "walk"}`);
    return { acorn: from("acorn"), walk: from("acorn-walk") };
  } catch {
    process.exit(3);
  }
}

function names(source) {
  const comments = [];
  const program = acorn.parse(source, { ecmaVersion: "latest", sourceType: "module", onComment: comments });
  const globals = comments.flatMap(({ value }) => value.match(/^ global (.*) $/)?.[1].split(", ") ?? []);
  const declared = new Map();
  const uses = [];
  const declare = (scope, name) => declared.set(scope, (declared.get(scope) ?? new Set()).add(name));
  const identifier = ({ name }, _, ancestors) => {
    const scope = scopeOfDeclaration(ancestors);
    if (scope) declare(scope, name);
    else uses.push({ name, ancestors: [...ancestors] });
  };
  walk.ancestor(program, {
    Identifier: (node, _, ancestors) => uses.push({ name: node.name, ancestors: [...ancestors] }),
    VariablePattern: identifier,
    ImportSpecifier: ({ local }) => declare(program, local.name),
  });
  const found = uses.map(({ name, ancestors }) => ({
    name,
    scope: ancestors.findLast((node) => declared.get(node)?.has(name)),
  }));
  const known = new Set([...LANGUAGE, ...globals]);
  const used = new Set(found.filter(({ scope }) => scope === program).map(({ name }) => name));
  const exported = new Set(program.body.flatMap(exportedNames));
  return {
    undeclared: unique(found.filter(({ name, scope }) => !scope && !known.has(name)).map(({ name }) => name)),
    unused: unique([...(declared.get(program) ?? [])].filter((name) => !used.has(name) && !exported.has(name))),
  };
}

/** The node in which the last of `ancestors`, a name in a pattern, becomes known; none for an assignment. */
function scopeOfDeclaration(ancestors) {
  const identifier = ancestors.at(-1);
  const at = ancestors.findLastIndex(({ type }) => !/Identifier|Pattern|Property|RestElement/.test(type));
  const owner = ancestors[at];
  const around = ancestors.slice(0, at).findLast(({ type }) => SCOPES.test(type));
  if (owner.type === "VariableDeclarator") return around;
  if (/^(Function|Class)Declaration$/.test(owner.type) && owner.id === identifier) return around;
  return /Function|Class|CatchClause/.test(owner.type) ? owner : null;
}

function exportedNames({ type, declaration }) {
  if (type !== "ExportNamedDeclaration") return [];
  return declaration.declarations?.map(({ id }) => id.name) ?? [declaration.id.name];
}

function unique(list) {
  return [...new Set(list)].sort();
}
