// What a page must be for everybody; read by test_browser.py, run in the page.

function lowContrast() {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (style.backgroundImage !== "none") return null;
      const colour = parse(style.backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const exempt = ":disabled, .skip, .visually-hidden, option, svg";
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest(exempt)) continue;
    const back = behind(element);
    if (!back) continue;
    const pair = [luminance(parse(getComputedStyle(element).color)), luminance(back)];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.className} ${text.slice(0, 30)}`);
  }
  return found;
}

function unnamed() {
  const controls = "a, button, input:not([type=hidden]), select, textarea";
  const named = (one) => one.innerText || one.getAttribute("aria-label") || (one.labels && one.labels.length);
  return [...document.querySelectorAll(controls)]
    .filter((one) => one.checkVisibility() && !named(one))
    .map((one) => one.outerHTML);
}

function headings() {
  return [...document.querySelectorAll("h1, h2, h3, h4")].map((one) => Number(one.tagName[1]));
}

function overflow() {
  return document.documentElement.scrollWidth - document.documentElement.clientWidth;
}

// What is wider than its place: it scrolls and shows that it does, or it is not wider.
function sideways() {
  const wide = (one) => one.checkVisibility() && one.clientWidth > 20 && one.scrollWidth > one.clientWidth + 1;
  const shaded = (style) => ["auto", "scroll"].includes(style.overflowX) && style.backgroundImage !== "none";
  const exempt = "select, textarea, input, pre, svg, svg *, .visually-hidden";
  return [...document.querySelectorAll("body *")]
    .filter((one) => !one.matches(exempt) && wide(one))
    .filter((one) => getComputedStyle(one).overflowX !== "visible" && !shaded(getComputedStyle(one)))
    .map((one) => `${one.tagName} ${one.className} ${one.textContent.trim().slice(0, 30)}`);
}
