// What every page is held to, whatever it says: one heading, a title, a way through by keyboard, no sideways
// scrolling on a narrow screen, a light and a dark face, nothing fetched from elsewhere, nothing on the console.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

export class Look {
  /** `origins`: the only ones that a page may ask. `out`: where screenshots go. */
  constructor(origins, out) {
    this.origins = new Set(origins);
    this.out = out;
    this.faults = [];
    this.titles = new Map();
    this.count = 0;
    mkdirSync(out, { recursive: true });
  }

  fault(where, what) {
    this.faults.push(`${where}: ${what}`);
  }

  /** Listens to everything that a context's pages say and ask for. */
  watch(context) {
    context.on('request', (request) => {
      const url = new URL(request.url());
      if (!this.origins.has(url.origin)) this.fault(request.frame().url(), `asks for ${request.url()}`);
    });
    context.on('console', (message) => {
      const { url } = message.location();
      // Chromium itself notes each answer of 400 and above; those are the pages that we came to see.
      if (/^Failed to load resource: the server responded with a status of/.test(message.text())) return;
      if (['error', 'warning'].includes(message.type())) this.fault(url, `console: ${message.text()}`);
    });
    context.on('weberror', (error) => this.fault(error.page()?.url(), `error: ${error.error()}`));
    return context;
  }

  /** Checks the page as it stands, and takes its picture in both schemes, narrow and wide. Its title is its own,
   * but for another page named as `like`. */
  async at(page, name, like = name) {
    await page.waitForLoadState();
    const usual = page.viewportSize();
    await this.document(page, name, like);
    await this.keyboard(page, name);
    await page.setViewportSize({ width: 320, height: 640 });
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    if (width > 320) this.fault(name, `${width}px wide on a screen of 320px`);
    const small = await page.evaluate(() =>
      [...document.querySelectorAll('a.button, button, .quiet')]
        .filter((e) => e.getBoundingClientRect().height < 24)
        .map((e) => e.textContent));
    if (small.length) this.fault(name, `too low to hit with a finger: ${small.join(', ')}`);
    await this.pictures(page, name);
    await page.setViewportSize(usual);
  }

  async document(page, name, like) {
    const found = await page.evaluate(() => ({
      lang: document.documentElement.lang,
      title: document.title.trim(),
      h1: document.querySelectorAll('h1').length,
      main: document.querySelectorAll('main').length,
      viewport: document.querySelectorAll('meta[name=viewport]').length,
      active: document.querySelectorAll('script, [style], iframe, img').length,
      main_actions: [...document.querySelectorAll('main .button')].map((e) => e.textContent.trim()),
    }));
    if (found.lang !== 'en') this.fault(name, `lang is "${found.lang}"`);
    if (found.h1 !== 1) this.fault(name, `${found.h1} headings of the first level`);
    if (found.main !== 1) this.fault(name, `${found.main} main landmarks`);
    if (found.viewport !== 1) this.fault(name, 'no viewport');
    if (found.active) this.fault(name, `${found.active} scripts, inline styles, frames or images`);
    if (found.main_actions.length > 1) this.fault(name, `two first things: ${found.main_actions.join(', ')}`);
    if (!found.title) this.fault(name, 'no title');
    const other = this.titles.get(found.title);
    if (other && other !== like) this.fault(name, `has the title of ${other}: ${found.title}`);
    this.titles.set(found.title, like);
  }

  /** Tab reaches everything that can be used, in the order of the document, and shows where it is. */
  async keyboard(page, name) {
    const wanted = await page.evaluate(() => {
      // Begin at the top, wherever a click was before.
      document.body.tabIndex = -1;
      document.body.focus();
      document.body.removeAttribute('tabindex');
      const usable = [...document.querySelectorAll('a[href], button, summary, [tabindex="0"]')]
        .filter((e) => e.checkVisibility());
      usable.forEach((e, place) => { e.dataset.walk = String(place); });
      return usable.length;
    });
    for (let place = 0; place < Math.min(wanted, 12); place += 1) {
      await page.keyboard.press('Tab');
      const at = await page.evaluate(() => {
        const e = document.activeElement;
        const style = getComputedStyle(e);
        return {
          place: e.dataset.walk,
          text: e.textContent.trim().slice(0, 40),
          ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
          colour: style.outlineColor,
          behind: getComputedStyle(document.documentElement).backgroundColor,
        };
      });
      if (at.place !== String(place)) {
        this.fault(name, `Tab goes to "${at.text}" (${at.place}) and not to ${place} of ${wanted}`);
        break;
      }
      if (!at.ring) this.fault(name, `no ring around "${at.text}"`);
      if (at.colour === at.behind) this.fault(name, `the ring around "${at.text}" cannot be seen`);
    }
    await page.evaluate(() => {
      document.activeElement?.blur();
      for (const e of document.querySelectorAll('[data-walk]')) delete e.dataset.walk;
    });
  }

  async pictures(page, name) {
    this.count += 1;
    const number = String(this.count).padStart(2, '0');
    const papers = new Map();
    for (const scheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: scheme });
      for (const width of [390, 1200]) {
        await page.setViewportSize({ width, height: width === 390 ? 844 : 800 });
        await page.screenshot({ path: join(this.out, `${number}-${name}-${scheme}-${width}.png`), fullPage: true });
      }
      papers.set(scheme, await page.evaluate(() => getComputedStyle(document.body).backgroundColor));
    }
    await page.emulateMedia({ colorScheme: null });
    if (papers.get('light') === papers.get('dark')) this.fault(name, 'looks the same in the dark');
  }
}
