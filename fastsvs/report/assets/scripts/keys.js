// The keys of a browser: / to its search, j k and arrows through its list, Enter to read, Esc back.

import { h } from "./dom.js";

/** What stands in a pane before anything is chosen. */
export function keyHint(words) {
  const keys = [
    [["/"], "search"],
    [["j", "k"], "move"],
    [["Enter"], "read"],
    [["Esc"], "back"],
  ];
  const told = keys.map(([names, what], index) => [
    names.map((name) => [h("kbd", {}, name), " "]),
    `${what}${index < keys.length - 1 ? ", " : "."}`,
  ]);
  return h("p", { class: "hint" }, `${words} `, told);
}

/** Keys pressed inside `root` are its own; those pressed outside any browser belong to the first one on the page. */
export function startKeys({ root, search, list, pane, rows, close }) {
  document.addEventListener("keydown", (event) => {
    const other = event.ctrlKey || event.metaKey || event.altKey || ownerOf(event.target) !== root;
    if (!other && press(event)) event.preventDefault();
  });

  /** Whether the key meant something. */
  function press({ key, target }) {
    const typing = target.matches("input, select, textarea");
    if (key === "/" && !typing) return toSearch();
    if (key === "Escape") return back(target, typing);
    if (target === search && ["Enter", "ArrowDown"].includes(key)) return toList();
    return (target === list || ("jk".includes(key) && !typing && root.contains(target))) && rows.press(key);
  }

  function toSearch() {
    search.focus();
    search.select();
    return true;
  }

  function toList() {
    list.focus();
    return rows.press(rows.selected ? "Enter" : "j");
  }

  function back(target, typing) {
    if (target === search) list.focus();
    else if (pane.contains(target) || !typing) close();
    return false;
  }
}

function ownerOf(target) {
  const shown = [...document.querySelectorAll(".browser")].filter((each) => each.offsetParent !== null);
  return target.closest(".browser") ?? shown[0];
}
