// Walks through teamgate as its visitors do, in a real browser without JavaScript.
//
//   node walk.mjs GATEWAY BITBUCKET STRICT OUT
//
// GATEWAY and BITBUCKET are those of `teamgate dev`; STRICT is a second gateway on the same pretend Bitbucket that
// lets members of acme in and nobody else, and whose routes meet the rarer ends: /down has no app behind it,
// /soon believes nothing older than a second. OUT gets the screenshots.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { Look } from './look.mjs';
import { at, choose, expect, follow, heading, press, sees, signIn } from './words.mjs';

const [gateway, bitbucket, strict, out] = process.argv.slice(2);
if (!out) throw new Error('usage: node walk.mjs GATEWAY BITBUCKET STRICT OUT');
const look = new Look([gateway, bitbucket, strict], out);

const chrome = {
  executablePath: process.env.TEAMGATE_CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
};
const browser = await chromium.launch(chrome);

/** A visitor with a browser of their own. */
async function visitor(options = {}) {
  const context = look.watch(await browser.newContext({ javaScriptEnabled: false, ...options }));
  context.setDefaultTimeout(10_000);
  const page = await context.newPage();
  return { context, page };
}

/** Signs Ann in as far as the way back from Bitbucket, which is returned and not taken. */
async function heldUp(context, address) {
  const options = { headers: { accept: 'text/html' }, maxRedirects: 0 };
  const start = await context.request.get(address, options);
  const agreed = await context.request.post(start.headers().location, { ...options, form: { user: 'ann' } });
  await context.clearCookies({ name: 'bitbucket_sim_user' });
  return agreed.headers().location;
}

/** Loads a page again until it says what is hoped for, or the time is up. */
async function until(page, address, done, sentence) {
  const end = Date.now() + 30_000;
  for (;;) {
    const response = await page.goto(address);
    if (await done(response)) return;
    expect(Date.now() < end, `half a minute later, still not: ${sentence}`, page);
    await page.waitForTimeout(250);
  }
}

/** Changes the pretend world as a program does. */
async function sim(method, path, body) {
  const answer = await fetch(`${bitbucket}/_sim/${path}`, {
    method,
    headers: body && { 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  expect(answer.ok, `/_sim/${path} answers ${answer.status}: ${await answer.text()}`);
}

const walks = [];
const walk = (name, steps) => walks.push({ name, steps });

// ── the walks

walk('Ann signs in, and the wiki knows her', async () => {
  const { page } = await visitor();
  await page.goto(`${gateway}/`);
  await heading(page, 'Who would you like to be?');
  await look.at(page, 'bitbucket-sign-in');
  await choose(page, 'Ann Abel');
  await sees(page, 'You are signed in as Ann Abel', 'Read your account');
  await look.at(page, 'bitbucket-consent');
  await press(page, 'Grant access');
  at(page, `${gateway}/`);
  await heading(page, 'The wiki knows you as Ann Abel');
  await sees(page, 'The signature is good.', 'x-forwarded-email', 'ann@example.com', 'acme/administrators');
  await look.at(page, 'wiki');
  await follow(page, 'Deploy');
  at(page, `${gateway}/deploy`);
  await heading(page, 'Deploy knows you as Ann Abel');
  await look.at(page, 'deploy');
  await follow(page, 'Who am I');
  await heading(page, 'You’re Ann Abel');
  await sees(page, 'ann@example.com', 'acme/members', 'Chrom');
  await look.at(page, 'who-am-i');
  const missing = await page.goto(`${gateway}/no-such-page`);
  expect(missing.status() === 404, `the app answers ${missing.status()}`, page);
  await look.at(page, 'app-not-found');
});

walk('signing out is asked, done, and not undone by looking again', async () => {
  const { context, page } = await visitor();
  await signIn(page, 'Ann Abel', `${gateway}/`);
  await page.goto(`${gateway}/.teamgate/logout`);
  await heading(page, 'Sign out?');
  await look.at(page, 'sign-out');
  await follow(page, 'Stay signed in');
  await heading(page, 'You’re Ann Abel');
  await page.goto(`${gateway}/.teamgate/logout`);
  await press(page, 'Sign out');
  await sees(page, 'You’re signed out of', 'Bitbucket itself still knows you in this browser.');
  await look.at(page, 'signed-out');
  for (const again of [() => page.reload(), () => page.goto(page.url())]) {
    await again();
    await sees(page, 'You’re signed out of');
  }
  const session = (await context.cookies()).find((cookie) => cookie.name === 'teamgate');
  expect(!session, 'the session’s cookie is still there');
  await page.goto(`${gateway}/.teamgate/`);
  await heading(page, 'You’re not signed in');
  await look.at(page, 'nobody');
  // Bitbucket still knows her, as the page said: no question is asked on the way back.
  await follow(page, 'Sign in with Bitbucket');
  at(page, `${gateway}/.teamgate/`);
  await heading(page, 'You’re Ann Abel');
});

walk('Ben comes in place of somebody else, is refused at the door to Deploy, and comes back as Ann', async () => {
  const { context, page } = await visitor();
  await page.goto(`${gateway}/deploy`);
  await choose(page, 'Cleo Costa');
  await follow(page, 'Use another account');
  await choose(page, 'Ben Berg');
  await sees(page, 'You are signed in as Ben Berg');
  await press(page, 'Grant access');
  at(page, `${gateway}/deploy`);
  await heading(page, 'This page is for acme/administrators');
  await sees(page, 'You’re signed in as Ben Berg');
  const response = await page.reload();
  expect(response.status() === 403, `a refusal is ${response.status()}`);
  const id = response.headers()['x-request-id'];
  expect(id?.length > 8, `the request has no number: ${id}`);
  await sees(page, id);
  await look.at(page, 'refused');
  await page.locator('summary').click();
  await sees(page, 'acme/members');
  await look.at(page, 'refused-groups-open', 'refused');
  await press(page, 'Switch account');
  await heading(page, 'Come back as somebody else');
  await look.at(page, 'switch');
  const [window] = await Promise.all([context.waitForEvent('page'), follow(page, 'Sign out of Bitbucket')]);
  await window.waitForLoadState();
  await heading(window, 'You are signed out');
  await look.at(window, 'bitbucket-signed-out');
  await window.close();
  await follow(page, 'Sign in');
  await choose(page, 'Ann Abel');
  at(page, `${gateway}/deploy`);
  await heading(page, 'Deploy knows you as Ann Abel');
});

walk('Cleo is refused on the wiki; the status page is everybody’s, and is told nothing', async () => {
  const { context, page } = await visitor();
  await page.goto(`${gateway}/status`);
  at(page, `${gateway}/status`);
  await heading(page, 'Everything is up');
  await sees(page, 'No identity arrived.');
  await look.at(page, 'status');
  await signIn(page, 'Cleo Costa', `${gateway}/`);
  await heading(page, 'This page is for acme');
  await sees(page, 'You’re signed in as Cleo Costa');
  await page.goto(`${gateway}/status`);
  await sees(page, 'No identity arrived.');
});

walk('Ben loses his team while he is signed in, and gets it back', async () => {
  const { context, page } = await visitor();
  const operator = await visitor();
  await signIn(page, 'Ben Berg', `${gateway}/`);
  await heading(page, 'The wiki knows you as Ben Berg');
  await operator.page.goto(`${bitbucket}/`);
  await look.at(operator.page, 'bitbucket-home');
  await press(operator.page, 'Remove Ben Berg from acme');
  const knows = async () => (await page.locator('h1').innerText()).includes('knows you as');
  await until(page, `${gateway}/`, async () => !(await knows()), 'Ben is refused');
  await heading(page, 'This page is for acme');
  await press(operator.page, 'Add Ben Berg to acme');
  await until(page, `${gateway}/`, knows, 'Ben is in again');
  await press(operator.page, 'Withdraw the access that Ben Berg granted');
  // His next load leads to Bitbucket, which asks him again whether he agrees.
  await until(page, `${gateway}/`, () => page.url().startsWith(bitbucket), 'Ben is signed out');
  await heading(page, 'teamgate demo would like to:');
  await operator.context.close();
});

walk('Ben signs his other browsers out, one and then the rest, and stays', async () => {
  const here = await visitor();
  await signIn(here.page, 'Ben Berg', `${gateway}/`);
  // Others may have been left behind by other walks.
  await here.page.goto(`${gateway}/.teamgate/`);
  const rest = here.page.getByRole('button', { name: 'Sign out everywhere else', exact: true });
  if (await rest.count()) await rest.click();
  const [first, second] = [await visitor(), await visitor()];
  for (const other of [first, second]) await signIn(other.page, 'Ben Berg', `${gateway}/`);
  await here.page.goto(`${gateway}/.teamgate/`);
  await sees(here.page, 'Your other browsers', 'from 127.0.0.1', 'Signed in from');
  await look.at(here.page, 'other-browsers', 'who-am-i');
  const rows = here.page.locator('section[aria-labelledby="others"] li');
  expect((await rows.count()) === 2, `there are ${await rows.count()} other browsers`, here.page);
  await rows.first().getByRole('button', { name: /^Sign out Chrom/ }).click();
  at(here.page, `${gateway}/.teamgate/`);
  expect((await rows.count()) === 1, `there are ${await rows.count()} other browsers left`, here.page);
  await press(here.page, 'Sign out everywhere else');
  at(here.page, `${gateway}/.teamgate/`);
  expect((await rows.count()) === 0, 'there are others left', here.page);
  for (const other of [first, second]) {
    await other.page.goto(`${gateway}/.teamgate/`);
    await heading(other.page, 'You’re not signed in');
  }
  await here.page.goto(`${gateway}/`);
  await heading(here.page, 'The wiki knows you as Ben Berg');
});

walk('a sign-in is cancelled, and tried again', async () => {
  const { context, page } = await visitor();
  await page.goto(`${gateway}/deploy?tab=2`);
  await press(page, 'Cancel');
  await heading(page, 'Sign-in was cancelled');
  await look.at(page, 'cancelled');
  await follow(page, 'Try again');
  await choose(page, 'Ann Abel');
  at(page, `${gateway}/deploy?tab=2`);
  await heading(page, 'Deploy knows you as Ann Abel');
});

walk('a callback that is old, somebody else’s, or without its cookie is explained', async () => {
  const { context, page } = await visitor();
  const callback = await heldUp(context, `${gateway}/`);
  const stranger = await visitor();
  await stranger.page.goto(callback);
  await heading(stranger.page, 'Your browser isn’t keeping our cookie');
  await look.at(stranger.page, 'cookies-blocked');
  await stranger.page.goto(`${gateway}/`);
  const response = await stranger.page.goto(callback);
  expect([400, 401, 403].includes(response.status()), `somebody else’s callback is ${response.status()}`);
  await heading(stranger.page, 'That sign-in is no longer good');
  await look.at(stranger.page, 'expired');
  await context.clearCookies({ name: /^teamgate/ });
  await page.goto(callback);
  await heading(page, 'Your browser isn’t keeping our cookie');
  await follow(page, 'Try again');
  await choose(page, 'Ann Abel');
  await heading(page, 'The wiki knows you as Ann Abel');
});

walk('a browser that keeps no cookie is told why, and not sent in circles', async () => {
  // Blocked in the settings of the browser itself, for everybody; Bitbucket asks nobody, or it would go no further.
  const profile = mkdtempSync(join(tmpdir(), 'teamgate-walk-'));
  mkdirSync(join(profile, 'Default'));
  const preferences = { profile: { default_content_setting_values: { cookies: 2 } } };
  writeFileSync(join(profile, 'Default', 'Preferences'), JSON.stringify(preferences));
  const context = await chromium.launchPersistentContext(profile, { ...chrome, javaScriptEnabled: false });
  try {
    look.watch(context);
    await sim('POST', 'auto-sign-in', { user: 'ann' });
    const page = await context.newPage();
    await page.goto(`${gateway}/`);
    await heading(page, 'Your browser isn’t keeping our cookie');
    expect((await context.cookies()).length === 0, 'the browser does keep cookies');
    await follow(page, 'Try again');
    await heading(page, 'Your browser isn’t keeping our cookie');
  } finally {
    await sim('POST', 'auto-sign-in', { user: null });
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
});

walk('a browser that loses the session’s cookie is stopped at the third round', async () => {
  const { context, page } = await visitor();
  await signIn(page, 'Ann Abel', `${gateway}/`);
  for (let round = 0; round < 5 && (await page.title()).includes('wiki'); round += 1) {
    await context.clearCookies({ name: 'teamgate' });
    await page.goto(`${gateway}/`);
  }
  await sees(page, 'You went to Bitbucket and back 2 times within a minute');
  await look.at(page, 'loop', 'cookies-blocked');
});

walk('Bitbucket fails in several ways, and each is a page', async () => {
  for (const [name, endpoint, kind, status] of [
    ['bitbucket-away', 'token.code', { status: 503 }, 503],
    ['bitbucket-garbled', 'user', 'gone', 502],
    ['misconfigured', 'user', { missing_scope: { required: ['account'], granted: ['email'] } }, 503],
  ]) {
    const { context, page } = await visitor();
    await sim('POST', 'faults', { endpoint, kind });
    let last;
    page.on('response', (response) => { if (response.request().isNavigationRequest()) last = response; });
    await signIn(page, 'Ann Abel', `${gateway}/`);
    await sim('DELETE', 'faults');
    expect(last.status() >= 500, `${name} is ${last.status()}`, page);
    await look.at(page, name);
  }
});

walk('at a gateway for members only, Eve is told and nothing is kept', async () => {
  const { context, page } = await visitor();
  await signIn(page, 'Eve Ekholm', `${strict}/down`);
  await heading(page, 'Eve Ekholm isn’t in a team that may use this gateway');
  const kept = (await context.cookies()).filter((cookie) => cookie.name === 'teamgate');
  expect(kept.length === 0, 'a session was begun');
  await look.at(page, 'no-team');
});

walk('an app that is down, an address that leads nowhere, a Bitbucket that does not answer', async () => {
  const { context, page } = await visitor();
  await signIn(page, 'Ann Abel', `${strict}/down`);
  await heading(page, 'reports isn’t answering');
  await look.at(page, 'app-down');
  const nowhere = await page.goto(`${strict}/nowhere`);
  expect(nowhere.status() === 404, `no route is ${nowhere.status()}`);
  await look.at(page, 'no-route');
  const odd = await page.goto(`${strict}/down/a%2Fb`);
  expect(odd.status() === 400, `an encoded slash is ${odd.status()}`);
  await look.at(page, 'bad-request');
  await sim('POST', 'faults', { endpoint: '*', kind: { status: 503 } });
  const unsure = (response) => response.status() === 503;
  await until(page, `${strict}/soon`, unsure, 'the gateway cannot tell');
  await sees(page, 'Nothing is wrong with your account');
  await look.at(page, 'cannot-tell');
  await sim('DELETE', 'faults');
});

walk('no page has a serious fault that axe can find', async () => {
  const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  for (const colorScheme of ['light', 'dark']) {
    const { context, page } = await visitor({ javaScriptEnabled: true, colorScheme });
    const examine = async (name) => {
      // Over the debugger, so that the pages' policy against scripts stays as it is.
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run(document, { preload: false }));
      for (const { id, impact, help, nodes } of violations) {
        if (!['serious', 'critical'].includes(impact)) continue;
        for (const { target } of nodes) look.fault(`${name} (${colorScheme})`, `axe ${id}: ${help}: ${target}`);
      }
    };
    await page.goto(`${bitbucket}/`);
    await examine('bitbucket-home');
    await page.goto(`${gateway}/status`);
    await examine('status');
    await page.goto(`${gateway}/.teamgate/`);
    await examine('nobody');
    await page.goto(`${gateway}/`);
    await examine('bitbucket-sign-in');
    await press(page, 'Cancel');
    await examine('cancelled');
    await page.goto(`${gateway}/.teamgate/callback?state=x&code=y`);
    await examine('callback');
    await page.goto(`${gateway}/deploy`);
    await choose(page, 'Ben Berg');
    if (await page.getByRole('button', { name: 'Grant access' }).count()) {
      await examine('bitbucket-consent');
      await press(page, 'Grant access');
    }
    await heading(page, 'This page is for acme/administrators');
    await page.locator('summary').click();
    await examine('refused');
    await page.goto(`${gateway}/`);
    await examine('wiki');
    await page.goto(`${gateway}/.teamgate/`);
    await examine('who-am-i');
    await page.goto(`${gateway}/.teamgate/logout`);
    await examine('sign-out');
    await press(page, 'Sign out');
    await examine('signed-out');
    await context.close();
  }
});

// ── off we go

await sim('POST', 'clients', {
  id: 'strict', secret: 'strict-secret', callback: `${strict}/.teamgate/callback`, name: 'a strict gateway',
  scopes: ['account', 'email'],
});

let failed = 0;
const only = process.env.TEAMGATE_WALK;
try {
  for (const { name, steps } of walks) {
    if (only && !name.includes(only)) continue;
    const begun = Date.now();
    try {
      await steps();
      console.log(`  ok  ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL  ${name}: ${error.message}`);
      if (!/^(does not see|is at|the heading)/.test(error.message)) console.log(error.stack);
      for (const page of browser.contexts().flatMap((context) => context.pages())) {
        await page.screenshot({ path: join(out, `failed-${failed}.png`), fullPage: true }).catch(() => {});
      }
    }
    for (const context of browser.contexts()) await context.close();
  }
} finally {
  await browser.close();
}
for (const fault of new Set(look.faults)) console.log(`FAULT ${fault}`);
console.log(`${walks.length} walks, ${look.count} pages, ${failed} failed, ${look.faults.length} faults`);
process.exit(failed + look.faults.length ? 1 : 0);
