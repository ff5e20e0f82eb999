// Walks over hosts that have nothing in common, over https, in a real browser without JavaScript.
//
//   node hosts.mjs PORT BITBUCKET CERTIFICATE KEY OUT
//
// PORT is that of a gateway whose own host is gate.acme.test; it serves wiki.other.test, deploy.acme.test and
// everything below apps.test, but for evil.apps.test: that one is served here, on another port, as by somebody who
// shares the domain. CERTIFICATE and KEY are theirs alike. Every name is this machine.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { Look } from './look.mjs';
import { at, expect, follow, heading, press, sees, signIn } from './words.mjs';

const [port, bitbucket, certificate, key, out] = process.argv.slice(2);
if (!out) throw new Error('usage: node hosts.mjs PORT BITBUCKET CERTIFICATE KEY OUT');
const host = (name) => `https://${name}:${port}`;
const [gate, wiki, deploy, good] =
  ['gate.acme.test', 'wiki.other.test', 'deploy.acme.test', 'good.apps.test'].map(host);

// Whatever a sibling can say to a browser about the cookies of its neighbours.
const planted = [
  '__Host-teamgate=x; Domain=apps.test; Path=/; Secure',
  '__Host-teamgate=x; Domain=good.apps.test; Path=/; Secure',
  '__Host-teamgate-over-a=99999999999999.x; Domain=apps.test; Path=/; Secure',
  '__Host-teamgate-rounds=2.99999999999; Domain=apps.test; Path=/; Secure',
  'teamgate=x; Domain=apps.test; Path=/; Secure',
  'teamgate=x; Domain=apps.test; Path=/.teamgate; Secure',
  'teamgate-rounds=2.99999999999; Domain=apps.test; Path=/; Secure',
  ...Array.from({ length: 9 }, (_, number) => `teamgate-over-${number}=99999999999999.x; Domain=apps.test; Path=/; Secure`),
];
const sibling = createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, (_, answer) => {
  answer.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'set-cookie': planted });
  answer.end('<!doctype html><html lang="en"><title>A neighbour</title><h1>A neighbour</h1>');
});
await new Promise((resolve) => sibling.listen(0, '127.0.0.1', resolve));
const evil = `https://evil.apps.test:${sibling.address().port}`;

const look = new Look([gate, wiki, deploy, good, evil, bitbucket], out);
const browser = await chromium.launch({
  executablePath: process.env.TEAMGATE_CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP *.test 127.0.0.1'],
});

/** A visitor with a browser of their own. `referrers` is what their browser says that it came from. */
async function visitor() {
  const context = look.watch(await browser.newContext({ javaScriptEnabled: false, ignoreHTTPSErrors: true }));
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const visited = [];
  const referrers = [];
  page.on('request', (request) => {
    visited.push(request.url());
    referrers.push(request.headers().referer ?? '');
  });
  return { context, page, visited, referrers };
}

const ours = async (context) => (await context.cookies()).filter(({ name }) => name === '__Host-teamgate');

const walks = [];
const walk = (name, steps) => walks.push({ name, steps });

walk('Ann signs in on one host, opens three others without a click, and is out of all of them at once', async () => {
  const { context, page, visited, referrers } = await visitor();
  await signIn(page, 'Ann Abel', `${wiki}/page?x=1`);
  at(page, `${wiki}/page?x=1`);
  await heading(page, 'The wiki');
  visited.length = 0;
  for (const [origin, title] of [[deploy, 'Deploy'], [good, 'An app'], [wiki, 'The wiki']]) {
    await page.goto(`${origin}/somewhere`);
    at(page, `${origin}/somewhere`);
    await heading(page, title);
  }
  expect(!visited.some((url) => url.startsWith(bitbucket)), 'Bitbucket was asked again', page);
  expect(visited.filter((url) => url.includes('?ticket=')).length === 2, `two tickets, not ${visited.join('\n')}`);
  expect(!referrers.some((url) => url.includes('ticket') || url.includes('request=')), 'a ticket was told on');
  const cookies = await ours(context);
  expect(cookies.length === 4, `cookies of ${cookies.map(({ domain }) => domain)}`);
  expect(new Set(cookies.map(({ value }) => value)).size === 4, 'two hosts have the same cookie');
  for (const { domain, secure, httpOnly, path } of cookies) {
    expect(!domain.startsWith('.') && secure && httpOnly && path === '/', `the cookie of ${domain}`);
  }
  await page.goto(`${deploy}/.teamgate/`);
  await heading(page, 'You’re Ann Abel');
  await sees(page, 'Also open at', 'wiki.other.test', 'deploy.acme.test', 'good.apps.test');
  await look.at(page, 'who-am-i-on-several-hosts');

  await press(page, 'Sign out');
  await sees(page, 'You’re signed out of');
  for (const origin of [wiki, deploy, good, gate]) {
    await page.goto(`${origin}/.teamgate/`);
    await heading(page, 'You’re not signed in');
  }
  // On the way in again Bitbucket is asked, and still knows her.
  visited.length = 0;
  await follow(page, 'Sign in with Bitbucket');
  at(page, `${gate}/.teamgate/`);
  expect(visited.some((url) => url.startsWith(bitbucket)), 'nobody asked Bitbucket');
  await page.goto(`${wiki}/.teamgate/`);
  await follow(page, 'Sign in with Bitbucket');
  at(page, `${wiki}/.teamgate/`);
  await heading(page, 'You’re Ann Abel');
});

walk('a neighbour plants cookies, and Ann is Ann all the same', async () => {
  const { context, page } = await visitor();
  await page.goto(`${evil}/`);
  await heading(page, 'A neighbour');
  const kept = (await context.cookies()).map(({ name, domain }) => `${name} ${domain}`);
  expect(kept.includes('teamgate .apps.test'), 'the browser took none at all, so this shows nothing');
  expect(!kept.some((cookie) => cookie.startsWith('__Host-')), `the browser took ${kept}`);
  await signIn(page, 'Ann Abel', `${good}/page`);
  at(page, `${good}/page`);
  await heading(page, 'An app');
  await page.goto(`${evil}/`);
  await page.goto(`${good}/.teamgate/`);
  await heading(page, 'You’re Ann Abel');
});

walk('a ticket that somebody else was given is explained, and does nothing', async () => {
  const ann = await visitor();
  await signIn(ann.page, 'Ann Abel', `${wiki}/`);
  await ann.page.goto(`${deploy}/`);
  const ticket = ann.visited.filter((url) => url.includes('?ticket=')).at(-1);
  expect(ticket?.startsWith(`${deploy}/.teamgate/hand-over?ticket=`), `the ticket is ${ticket}`);
  const stranger = await visitor();
  await stranger.page.goto(ticket);
  await heading(stranger.page, 'Your browser isn’t keeping our cookie');
  await sees(stranger.page, 'came back from gate.acme.test without it', 'allow them for deploy.acme.test');
  await look.at(stranger.page, 'ticket-without-cookies');
  // With an attempt of their own under way, they are told something else, and the way on leads to Bitbucket.
  await stranger.page.goto(`${deploy}/`);
  await stranger.page.goto(ticket);
  await heading(stranger.page, 'That sign-in is no longer good');
  expect((await ours(stranger.context)).length === 0, 'somebody got a session');
  await follow(stranger.page, 'Sign in again');
  expect(stranger.page.url().startsWith(bitbucket), 'a stranger is not asked who they are', stranger.page);
  // Ann, who goes back to it, is where she was going.
  await ann.page.goto(ticket);
  at(ann.page, `${deploy}/`);
  await heading(ann.page, 'Deploy');
});

walk('Ben signs his other browser out from a host that was handed his session', async () => {
  const [here, other] = [await visitor(), await visitor()];
  for (const { page } of [here, other]) await signIn(page, 'Ben Berg', `${wiki}/`);
  await other.page.goto(`${deploy}/`);
  await heading(other.page, 'Deploy');
  await here.page.goto(`${wiki}/.teamgate/`);
  const rows = here.page.locator('section[aria-labelledby="others"] li');
  expect((await rows.count()) === 1, `there are ${await rows.count()} other browsers`, here.page);
  await sees(here.page, 'deploy.acme.test');
  await rows.first().getByRole('button', { name: /^Sign out Chrom/ }).click();
  at(here.page, `${wiki}/.teamgate/`);
  expect((await rows.count()) === 0, 'it is still there', here.page);
  for (const origin of [wiki, deploy]) {
    await other.page.goto(`${origin}/.teamgate/`);
    await heading(other.page, 'You’re not signed in');
  }
  await here.page.goto(`${wiki}/`);
  await heading(here.page, 'The wiki');
});

const registered = await fetch(`${bitbucket}/_sim/clients`, {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({
    id: 'hosts', secret: 'hosts-secret', callback: `${gate}/.teamgate/callback`, name: 'several hosts',
    scopes: ['account', 'email'],
  }),
});
expect(registered.ok, `the pretend Bitbucket answers ${registered.status}`);

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
      console.log(`FAIL  ${name}: ${error.message}\n${error.stack}`);
      for (const page of browser.contexts().flatMap((context) => context.pages())) {
        await page.screenshot({ path: join(out, `failed-${failed}.png`), fullPage: true }).catch(() => {});
      }
    }
    for (const context of browser.contexts()) await context.close();
  }
} finally {
  await browser.close();
  sibling.close();
}
for (const fault of new Set(look.faults)) console.log(`FAULT ${fault}`);
console.log(`${walks.length} walks over several hosts, ${failed} failed, ${look.faults.length} faults`);
process.exit(failed + look.faults.length ? 1 : 0);
