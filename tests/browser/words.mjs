// Words for what a visitor sees and does.

export function expect(condition, sentence, page) {
  if (!condition) throw new Error(`${sentence}${page ? `\n  at ${page.url()}` : ''}`);
}

/** In any case: whether a first letter is shown as a capital is the stylesheet's, which may not be there yet. */
export async function sees(page, ...sentences) {
  const text = (await page.locator('body').innerText()).replace(/\s+/g, ' ');
  for (const sentence of sentences) {
    expect(text.toLowerCase().includes(sentence.toLowerCase()), `does not see "${sentence}" but "${text.slice(0, 600)}"`, page);
  }
}

export async function heading(page, sentence) {
  const text = (await page.locator('h1').innerText()).replace(/\s+/g, ' ').trim();
  expect(text === sentence, `the heading is "${text}", not "${sentence}"`, page);
}

export const at = (page, address) => expect(page.url() === address, `is at ${page.url()}, not ${address}`);
export const press = (page, name) => page.getByRole('button', { name, exact: true }).click();
export const follow = (page, name) => page.getByRole('link', { name, exact: true }).click();

/** Chooses a person on the page of the pretend Bitbucket. */
export const choose = (page, name) => page.getByRole('button', { name }).click();

export async function signIn(page, name, address) {
  await page.goto(address);
  await choose(page, name);
  const grant = page.getByRole('button', { name: 'Grant access' });
  if (await grant.count()) await grant.click();
}
