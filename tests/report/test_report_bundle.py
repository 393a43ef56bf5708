"""The page's ES modules: how they become one script, and that each says all that it takes and gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT

from fastsvs.report.bundle import bundle, in_order, parse
from fastsvs.report.page import modules

NODE = shutil.which("node") or ""
needs_node = pytest.mark.skipif(not NODE, reason="no node")
BROWSER = {
    *(
        "document",
        "window",
        "history",
        "location",
        "navigator",
        "getComputedStyle",
        "setTimeout",
        "requestAnimationFrame",
    ),
    *("Event", "IntersectionObserver", "NodeFilter", "ResizeObserver", "URLSearchParams"),
    *("fetch", "Response", "Blob", "DecompressionStream", "atob", "URL", "Path2D", "CSS"),
}
"""Everything that the page takes from its browser."""


def run_script(script: str) -> str:
    return subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, check=True, timeout=60).stdout


def scopes(sources: dict[str, str]) -> dict[str, dict[str, list[str]]]:
    """Undeclared and unused names of each module."""
    command = [NODE, "--expose-internals", str(Path(__file__).with_name("scopes.cjs"))]
    ended = subprocess.run(command, input=json.dumps(sources), capture_output=True, text=True, timeout=60)
    if ended.returncode == 3:
        pytest.skip("this node shows no parser")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@needs_node
def test_modules_run_in_order_with_scopes_of_their_own() -> None:
    script = bundle(
        {
            "a.js": (
                'import { log } from "./c.js";\nimport { double } from "./b.js";\nconst own = 1;\nlog(double(own));\n'
            ),
            "b.js": (
                'import {\n  log,\n  offset,\n} from "./c.js";\n\n'
                "const own = 20;\nlog(typeof hidden);\n"
                "export function double(value) {\n  return 2 * value + own + offset;\n}\n"
            ),
            "c.js": (
                "const hidden = 5;\n"
                "export const offset = 300;\n"
                "export class Unused {}\n"
                "export async function later() {}\n"
                "export const log = (text) => console.log(text, hidden); // the last line ends without a break"
            ),
        }
    )
    assert run_script(script).splitlines() == ["undefined 5", "322 5"]
    assert run_script(f"{script}console.log(typeof own, typeof double, typeof modules);").endswith(
        "undefined undefined undefined\n"
    )


@needs_node
def test_what_was_imported_cannot_be_assigned() -> None:
    script = bundle({"a.js": "export const x = 1;\n", "b.js": 'import { x } from "./a.js";\nx = 2;\n'})
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_script(script)
    assert "TypeError: Assignment to constant variable" in failed.value.stderr


@given(st.lists(st.sets(st.integers(0, 30)), max_size=12), st.randoms(use_true_random=False))
def test_a_module_comes_after_all_that_it_imports(graph: list[set[int]], random: Random) -> None:
    needs = {number: [each for each in sorted(needed) if each < number] for number, needed in enumerate(graph)}
    numbers = list(needs)
    random.shuffle(numbers)
    sources = {
        f"m{number}.js": "".join(f'import {{ f{each} }} from "./m{each}.js";\n' for each in needs[number])
        + f"export function f{number}() {{}}\n"
        for number in numbers
    }
    order = in_order({name: parse(name, source) for name, source in sources.items()})
    assert sorted(order) == sorted(sources)
    place = {name: index for index, name in enumerate(order)}
    assert all(place[f"m{each}.js"] < place[f"m{number}.js"] for number, needed in needs.items() for each in needed)
    assert re.findall(r'^modules\["(.+)"\] =', bundle(sources), re.MULTILINE) == order


A = "export function a() {}\n"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            {
                f"{each}.js": f'import {{ f }} from "./{to}.js";\nexport const f = 1;\n'
                for each, to in ("ab", "bc", "ca")
            },
            r"circle: (a.js imports b.js imports c.js imports a.js|b.* imports b.js|c.* imports c.js)$",
        ),
        ({"a.js": 'import { a } from "./a.js";\n' + A}, "circle: a.js imports a.js"),
        ({"a.js": 'import { b } from "./b.js";\n'}, "a.js imports b.js, which is not there"),
        ({"a.js": A, "b.js": 'import { a, c } from "./a.js";\n'}, "b.js imports c, which a.js does not export"),
        ({"a.js": "function a() {}\n", "b.js": 'import { a } from "./a.js";\n'}, "imports a, which a.js does not"),
        ({"a.js": A, "b.js": 'import { a as c } from "./a.js";\n'}, "b.js: .* not 'import { a as c }"),
        ({"a.js": A, "b.js": 'import * as c from "./a.js";\n'}, "b.js: .* not 'import"),
        ({"a.js": A, "b.js": 'import "./a.js";\n'}, "b.js: .* not 'import"),
        ({"a.js": A, "b.js": '  import { a } from "./a.js";\n'}, "b.js: .* not 'import"),
        ({"a.js": A, "b.js": 'import { a } from "./a.js"\n'}, "b.js: .* not 'import"),
        ({"a.js": A, "b.js": 'const later = await import("./a.js");\n'}, "b.js: .* not 'import"),
        ({"a.js": "export let a = 1;\n"}, "a.js: .* not 'export let a"),
        ({"a.js": "export default function a() {}\n"}, "a.js: .* not 'export default"),
        ({"a.js": "function a() {}\nexport { a };\n"}, "a.js: .* not 'export { a };'"),
        ({"a.js": "export const { a } = {};\n"}, "a.js: .* not 'export const { a }"),
    ],
)
def test_what_cannot_be_bundled_is_refused(sources: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bundle(sources)


def test_every_export_is_imported_and_only_main_is_the_start() -> None:
    parsed = {name: parse(name, source) for name, source in modules().items()}
    imported = {
        (source, name) for module in parsed.values() for source, names in module.imports.items() for name in names
    }
    assert imported == {(source, name) for source, module in parsed.items() for name in module.exports}
    assert parsed.keys() - {source for source, _ in imported} == {"main.js"}


@needs_node
def test_units_are_those_of_the_documentation() -> None:
    """Only the rates of an evaluation share names with the counts of training, which end in a kind."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \| .+ \| ([^|]+) \|$", page, re.MULTILINE)
    told = {name: unit for names, unit in rows for name in re.findall(r"`([^`]+)`", names)}
    names = {re.sub(r"<\w+>", "other", name).replace("@k", "@8"): unit for name, unit in told.items()}
    assert len(names) > 150
    asked = [*names, "own/idea"]
    script = (
        f"{parse('units.js', modules()['units.js']).body}; console.log(JSON.stringify({json.dumps(asked)}.map(unitOf)))"
    )
    assert dict(zip(asked, json.loads(run_script(script)), strict=True)) == {**names, "own/idea": ""}


@needs_node
def test_no_module_uses_what_it_does_not_name() -> None:
    found = scopes(modules() | {"the bundle": bundle(modules())})
    assert {name: each["unused"] for name, each in found.items() if each["unused"]} == {}
    assert {name: set(each["undeclared"]) - BROWSER for name, each in found.items()} == {name: set() for name in found}
    assert {each for names in found.values() for each in names["undeclared"]} == BROWSER


@needs_node
@pytest.mark.parametrize(
    ("source", "undeclared", "unused"),
    [
        ("f(Math.max(1));", ["f"], []),
        ("x = 1; [y] = [2]; ({ z } = {}); for (v of []) ;", ["v", "x", "y", "z"], []),
        ("export const f = (show) => show; show(1);", ["show"], []),
        ("{ const inner = 1; } inner; try {} catch (error) {} error;", ["error", "inner"], []),
        ("export function f({ a, b: [c = d], ...rest }) { return { a, c, rest, b: rest.b }; }", ["d"], []),
        ("for (const [k, v] of []) k(v); k; label: for (;;) break label;", ["k"], []),
        ("export const g = function own() { return own; }; own;", ["own"], []),
        ('import { a, b } from "./x.js"; const c = 1; export const d = (a) => a + b;', [], ["a", "c"]),
        ("/* global lib */ lib(other);", ["other"], []),
        (
            "export class C extends Base { a = this.x; static { const c = C; c; } m() { return late(); } }",
            ["Base", "late"],
            [],
        ),
        ("early(); function early() {}", [], []),
    ],
)
def test_the_check_of_scopes_finds_what_is_wrong(source: str, undeclared: list[str], unused: list[str]) -> None:
    assert scopes({"a.js": source}) == {"a.js": {"undeclared": undeclared, "unused": unused}}
