// Looks at a page as a person would, in Chromium: tests/browser.rs runs it and says what it proves.
//
// node look.js URL SERVER WATCHDOG DIRECTORY: pids of a server to freeze (slot 1) and of its
// watchdog; where pictures go. It ends with 1 and a line at the first thing that is wrong.
"use strict";
const { chromium } = require("playwright-core");
const [url, server, watchdog, directory] = process.argv.slice(2);
const SOON = 20000;

function must(holds, what) {
  if (!holds) throw new Error(what);
}

// Waits until the trace of the second row looks so. (In the page no script may be made from text, so
// it is asked again and again.)
async function until(page, what, check) {
  const end = Date.now() + SOON;
  while (!check(await page.evaluate(columns, 1))) {
    must(Date.now() < end, `never seen: ${what}`);
    await page.waitForTimeout(50);
  }
}

// In the browser: how the drawn trace of a row is inked. Of each column of pixels from the right,
// whether something stands above its base line, and whether that is red over the whole height.
function columns(index) {
  const canvas = document.querySelectorAll("#hearts canvas")[index];
  const { width, height } = canvas;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const scale = height / canvas.getBoundingClientRect().height;
  const dot = (x, y) => data.subarray((y * width + x) * 4, (y * width + x) * 4 + 4);
  const base = Math.round(height - 20 * scale), found = [];
  for (let x = width - 1; x >= 0; x--) {
    let high = 0, red = 0;
    // Above the line, below the words of the marks.
    for (let y = Math.round(20 * scale); y < base - 4 * scale; y++) {
      const [r, g, b, alpha] = dot(x, y);
      if (alpha > 150) { high++; if (r > 1.5 * g && r > 1.5 * b) red++; }
    }
    found.push({ high: high > 2 * scale, red: red > (base - 24 * scale) * 0.8 });
  }
  return found;
}

// In the browser: texts whose contrast to what lies behind them is below that of WCAG AA.
function pale() {
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(node).backgroundColor);
      if (alpha > 0.99) return [r, g, b];
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const ink = node.closest("svg") ? style.fill : style.color;
    const [one, other] = [light(parse(ink)), light(behind(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) found.push(`${node.tagName} ${texts.currentNode.data}: ${ratio.toFixed(1)}`);
  }
  return found;
}

async function main() {
  const options = ["--no-sandbox", "--disable-gpu"];
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: options });
  const wrong = [];
  const open = async (settings) => {
    const page = await (await browser.newContext(settings)).newPage();
    page.setDefaultTimeout(SOON);
    page.on("console", (message) => {
      // Its advice to whoever reads pixels as often as this test does.
      if (!message.text().startsWith("Canvas2D")) wrong.push(message.text());
    });
    page.on("pageerror", (error) => wrong.push(String(error)));
    page.on("request", (request) => {
      const own = request.url().startsWith(new URL(url).origin);
      if (!own && !request.url().startsWith("data:")) wrong.push(`asks for ${request.url()}`);
    });
    await page.goto(url, { waitUntil: "domcontentloaded" });
    return page;
  };
  const take = (page, name) => page.screenshot({ path: `${directory}/${name}.png`, fullPage: true });
  const wide = { width: 1280, height: 900 }, narrow = { width: 360, height: 740 };

  const light = await open({ viewport: wide, colorScheme: "light" });
  const drawn = await light.evaluate(() => performance.getEntriesByName("first-trace")[0].startTime);
  console.log(`first trace after ${Math.round(drawn)} ms`);
  must(drawn < 3000, `the first trace came after ${drawn} ms`);
  const others = {
    dark: await open({ viewport: wide, colorScheme: "dark" }),
    narrow: await open({ viewport: narrow, colorScheme: "light" }),
    "narrow-dark": await open({ viewport: narrow, colorScheme: "dark", deviceScaleFactor: 2 }),
  };

  // Its heart beats: spikes come and go.
  const beats = (trace) => trace.slice(0, 60).filter((column) => column.high).length > 3;
  await until(light, "beats", beats);

  // Calm for who wants it so: it draws once a second, not twenty times.
  const still = await open({ viewport: wide, reducedMotion: "reduce" });
  const strokes = (page) => page.evaluate(() => new Promise((done) => {
    const pen = CanvasRenderingContext2D.prototype, clear = pen.clearRect;
    let count = 0;
    pen.clearRect = function (...box) { count++; return clear.apply(this, box); };
    setTimeout(() => {
      pen.clearRect = clear;
      done(count / document.querySelectorAll("canvas").length);
    }, 2000);
  }));
  const rates = [await strokes(still), await strokes(light)];
  must(rates[0] <= 4 && rates[1] > 2 * rates[0], `drawn in 2 s: ${rates}`);
  await still.close();

  // Every place to go is reached by keyboard, and seen.
  let places = 0;
  for (let step = 0; step < 40; step++) {
    await light.keyboard.press("Tab");
    const seen = await light.evaluate(() => {
      const node = document.activeElement, style = getComputedStyle(node);
      if (node === document.body) return null;
      return { who: node.textContent || node.id, drawn: style.outlineStyle !== "none"
        && parseFloat(style.outlineWidth) >= 2 };
    });
    if (!seen) break;
    must(seen.drawn, `no focus is seen at ${seen.who}`);
    places++;
  }
  must(places >= 4, `only ${places} places for the keyboard`);

  // A freeze: a flat line in red, then the mark of the verdict over the whole height, its cause in
  // words, and beats again.
  await light.evaluate(() => {
    const row = document.querySelectorAll("#hearts tbody tr")[1];
    new MutationObserver(() => { if (row.classList.contains("bad")) window.alarmed = true; })
      .observe(row, { attributes: true });
  });
  process.kill(Number(server), "SIGSTOP");
  const row = light.locator("#hearts tbody tr").nth(1);
  await until(light, "a flat line", (trace) => trace.slice(6, 26).every((column) => !column.high));
  await take(light, "silent");
  await until(light, "the mark", (trace) => trace.some((column) => column.red));
  await row.getByText("frozen (stopped)").waitFor();
  await light.locator("#told").getByText("-> frozen (stopped").waitFor();
  await until(light, "beats again", beats);
  must(await light.evaluate(() => window.alarmed), "the row was never red");
  // A report is one click away, where reports are kept.
  const report = row.locator("a");
  if (process.env.REPORTS) {
    await report.waitFor();
    const [told] = await Promise.all([light.waitForNavigation(), report.click()]);
    must(told.status() === 200, `the report: ${told.status()}`);
    await light.getByText("frozen").first().waitFor();
    await take(light, "report");
    await light.goBack();
  }

  for (const [name, page] of Object.entries({ light, ...others })) {
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    must(over <= 0, `${name}: ${over} pixels too wide`);
    const faint = await page.evaluate(pale);
    must(faint.length === 0, `${name}: hard to read: ${faint.join("; ")}`);
    await take(page, name);
  }

  // Without scripts: a table with drawn traces.
  const plain = await open({ viewport: wide, javaScriptEnabled: false });
  must(await plain.locator("#hearts tbody tr").count() === 2, "scripts off: no table");
  must(await plain.locator("noscript .note").isVisible(), "scripts off: nothing says so");
  const paths = await plain.locator("#hearts svg path").count();
  must(paths >= 2, "scripts off: no traces");
  must(await plain.getByText("-> frozen (stopped").first().isVisible(), "scripts off: no story");
  await take(plain, "plain");

  // A watchdog that stands still: in red, with what is to be done.
  process.kill(Number(watchdog), "SIGSTOP");
  const advice = light.locator("#advice");
  await advice.getByText("FROZEN", { exact: false }).waitFor();
  const [r, g] = (await advice.evaluate((node) => getComputedStyle(node).color
    + getComputedStyle(node).backgroundColor)).match(/[\d.]+/g).map(Number);
  must(r !== g, "the advice has no colour");
  await take(light, "frozen");
  process.kill(Number(watchdog), "SIGCONT");
  await advice.waitFor({ state: "hidden" });

  must(wrong.length === 0, `the browser complains: ${wrong.join("; ")}`);
  await browser.close();
}

main().catch((error) => { console.log(String(error.stack || error)); process.exit(1); });
