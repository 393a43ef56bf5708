// What is wrong with the looks of a page's text: { faint, over, wide }, each a list of descriptions.
() => {
  const paint = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = text;
    paint.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = paint.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const above = (top, ground) => [0, 1, 2].map((at) => top[at] * top[3] + ground[at] * (1 - top[3])).concat(1);
  const parents = (element) => (element ? [element, ...parents(element.parentElement)] : []);
  const ground = (element) =>
    parents(element).reduceRight((below, each) => above(rgba(getComputedStyle(each).backgroundColor), below), [255, 255, 255, 1]);
  const luminance = (color) => {
    const [red, green, blue] = color.slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (element) => {
    const below = ground(element);
    const [low, high] = [luminance(above(rgba(getComputedStyle(element).color), below)), luminance(below)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  // What of a box can be seen through those that clip it.
  const seen = (box, element) =>
    parents(element.parentElement)
      .filter((each) => getComputedStyle(each).overflow !== "visible" && each !== document.body)
      .map((each) => each.getBoundingClientRect())
      .reduce(
        (found, clip) => ({
          left: Math.max(found.left, clip.left),
          right: Math.min(found.right, clip.right),
          top: Math.max(found.top, clip.top),
          bottom: Math.min(found.bottom, clip.bottom),
        }),
        { left: box.left, right: box.right, top: box.top, bottom: box.bottom },
      );
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const [faint, boxes] = [new Set(), []];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    const shown = element.checkVisibility({ visibilityProperty: true });
    if (!node.data.trim() || !shown || element.closest("script, style, option, math, .skip")) continue;
    const text = node.data.trim().slice(0, 40);
    const ratio = contrast(element);
    if (ratio < 4.5) faint.add(`${text}: ${ratio.toFixed(2)}`);
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) boxes.push({ ...seen(box, element), text, element });
  }
  const still = boxes.filter(
    ({ left, right, top, bottom, element }) =>
      right - left > 2 && bottom - top > 2 && right > 0 && !element.closest(".bar, .figure-bar, .back"),
  );
  still.sort((a, b) => a.top - b.top);
  const over = still.flatMap((one, index) => {
    const end = still.findIndex((each, at) => at > index && each.top > one.bottom);
    return still
      .slice(index + 1, end < 0 ? undefined : end)
      .filter(
        (each) =>
          each.element !== one.element &&
          Math.min(one.right, each.right) - Math.max(one.left, each.left) > 2 &&
          Math.min(one.bottom, each.bottom) - each.top > 4,
      )
      .map((each) => `${one.text} | ${each.text}`);
  });
  const sideways = [document.documentElement, ...document.querySelectorAll(".pane, .scroll")];
  const wide = sideways.filter((each) => each.scrollWidth > each.clientWidth + 1);
  return { faint: [...faint], over, wide: wide.map((each) => each.className || each.tagName) };
}
