// The admin page around <messaging-stats>: signing in and out, the warning before that ends, the tab's title, the
// largest and busiest conversations, and one user's connections.

import { fold, isolated, reasonIn, sentence } from './messaging-stats.js';

const page = document.documentElement;
const find = (selector) => document.querySelector(selector);
const time = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const count = new Intl.NumberFormat('en');
/** A user's name in a text, without invisible characters that would turn the reading around beyond it. */
const called = (name) => isolated(name.replace(/[\u202a-\u202e\u2066-\u2069]/g, ''));
/** 14:05, with its day when that is not today. */
const when = (at) => (at.toDateString() === new Date().toDateString() ? time.format(at) : `${day.format(at)}, ${time.format(at)}`);
const INTRODUCTION = find('#why').textContent;
const WARN = 300; // seconds before the sign-in ends, or half of what is left of a short one
const TOP = 5; // conversations of each sort
const TOP_EVERY = 60; // seconds
const PATIENCE = 15; // seconds for an answer; in link.js, too
let warnAt = Infinity; // Date.now() from which the end is announced; known with the first answer
let ahead = 0; // milliseconds that this browser's clock is ahead of the server's
let state = { brief: '', level: 'good' };
let connected = null;
let gone = false; // was there an answer, and is there none now

/** Show the figures to `user` until `expires` (RFC 3339). */
function enter({ user, expires_at: expires }) {
  page.dataset.view = 'panel';
  page.dataset.expires = expires;
  warnAt = Infinity;
  warn();
  forget();
  find('#who').textContent = `${called(user)}, until ${when(new Date(expires))}`;
  find('#token').value = '';
  const stats = document.createElement('messaging-stats');
  stats.src = new URL(find('#panel').dataset.src, document.baseURI).pathname;
  const refresh = new URLSearchParams(location.search).get('refresh');
  if (refresh) stats.refresh = refresh;
  find('#panel').replaceChildren(stats);
  void showTop(); // after an earlier sign-in there are lists, of then
}

/** Show the form, and why: `reason` in place of the introduction, `problem` with what was typed. */
function ask(reason = INTRODUCTION, problem = '') {
  page.dataset.view = 'sign-in';
  document.title = 'Messaging';
  warnAt = Infinity;
  warn();
  find('#panel').replaceChildren();
  find('#why').textContent = reason;
  find('#problem').textContent = problem;
  find('#token').setAttribute('aria-invalid', problem !== ''); // an empty attribute would mean that it is valid
  find('#token').focus();
}

/** Take the server's answer to a token. */
async function answered(response) {
  let said = null;
  try {
    said = await (await response).json();
  } catch {
    ask(INTRODUCTION, 'The server does not answer. Try again.');
    return;
  }
  if (typeof said?.user === 'string') {
    enter(said);
    find('h1').focus();
  } else {
    ask(INTRODUCTION, sentence(reasonIn(said, 'The server is in trouble. Try again')));
  }
}

/** A server that hangs does not answer: it is said, and no connection of the browser's few is held for good. */
function askFor(url, options = {}) {
  return fetch(url, { ...options, headers: { Accept: 'application/json' }, signal: AbortSignal.timeout(PATIENCE * 1000) });
}

function post(form, body) {
  return askFor(form.action, { method: 'POST', body });
}

find('.sign-in form').addEventListener('submit', (event) => {
  event.preventDefault();
  void answered(post(event.target, new URLSearchParams({ token: find('#token').value.trim() })));
});

find('.session').addEventListener('submit', async (event) => {
  event.preventDefault();
  const response = await post(event.target).catch(() => null);
  if (response?.ok) ask('You have signed out.');
  else event.target.submit(); // the cookie is still there, and the browser says what is wrong
});

find('#panel').addEventListener('messaging-stats-denied', (event) => {
  const end = new Date(page.dataset.expires);
  const over = end <= Date.now() - ahead + 3000; // the answers tell the server's time to the second
  ask(
    over
      ? `Your sign-in expired at ${when(end)}. Sign in again to go on.`
      : `Your sign-in no longer holds: ${event.detail.reason}. Sign in again to go on.`,
  );
});

// --- the tab's title: what is wrong first, then how many are there -------------------------------------------------

function entitle() {
  if (page.dataset.view !== 'panel') return;
  const there = connected !== null ? `${count.format(connected)} connected` : '';
  document.title = [state.brief, there, 'Messaging'].filter(Boolean).join(' · ');
}

find('#panel').addEventListener('messaging-stats-update', (event) => {
  const connections = event.detail.active_connections;
  connected = typeof connections === 'number' ? connections : null;
  entitle();
  ahead = Date.now() - Date.parse(event.detail.as_of) || 0;
  if (warnAt === Infinity) {
    const left = new Date(page.dataset.expires) - Date.now() + ahead;
    warnAt = Date.now() + left - Math.min(WARN * 1000, left / 2);
  }
  const serves = event.detail.refused !== undefined; // what only observes databases has no conversations of its own
  if (find('#tools').hidden === serves) {
    find('#tools').hidden = !serves;
    void showTop();
  }
});

find('#panel').addEventListener('messaging-stats-state', (event) => {
  const away = gone;
  state = event.detail;
  gone = state.code === 'lost' || state.code === 'in_trouble';
  if (gone) {
    connected = null;
    topUnread(state.code === 'lost' ? 'the server does not answer' : 'the server is in trouble');
  } else if (away) void showTop();
  entitle();
});

// --- the end of the sign-in, before it comes -----------------------------------------------------------------------

function warn() {
  const soon = Date.now() >= warnAt;
  const text = soon ? `Your sign-in ends at ${when(new Date(page.dataset.expires))}.` : '';
  if (find('#ending').textContent !== text) find('#ending').textContent = text;
  find('#again').hidden = !soon;
}

setInterval(warn, 1000);
find('#again').addEventListener('click', () => ask('Sign in again to go on.'));

// --- conversations -------------------------------------------------------------------------------------------------

const address = (path) => new URL(`${find('#tools').dataset.root}${path}`, document.baseURI);

let topRead = null; // when the lists were read
let topAsked = 0; // Date.now() when they were asked for; a timer of a minute would stand still while the machine sleeps

/** Fill a table with a fixed number of rows, so that nothing moves. */
function fill(table, rows) {
  const body = find(`${table} tbody`);
  const columns = find(`${table} thead tr`).children.length;
  body.replaceChildren(
    ...Array.from({ length: TOP }, (_, i) => {
      const row = document.createElement('tr');
      row.append(
        ...Array.from({ length: columns }, (_, j) => {
          const cell = document.createElement(j === 0 ? 'th' : 'td');
          if (j === 0) cell.scope = 'row';
          const value = rows[i]?.[j];
          if (typeof value === 'string') cell.dir = 'auto';
          cell.textContent = value === undefined ? '–' : typeof value === 'number' ? count.format(value) : value;
          if (j === 0 && value !== undefined) cell.title = value;
          cell.toggleAttribute('data-long', typeof value === 'number' && cell.textContent.length > 10);
          return cell;
        }),
      );
      return row;
    }),
  );
}

/** The words below a table; `bad` when they say why something is not known. */
function note(table, text, bad = false) {
  const node = find(`${table}-note`);
  node.textContent = text;
  node.toggleAttribute('data-bad', bad);
  fold(node);
}

const widths = new ResizeObserver(() => document.querySelectorAll('#tools .note').forEach(fold));
widths.observe(find('#tools'));

/** What was known stays to be seen, and is said to be old. */
function topUnread(reason) {
  for (const table of ['#largest', '#busiest']) {
    if (topRead === null) fill(table, [['unknown']]);
    find(table).toggleAttribute('data-old', topRead !== null);
    note(table, topRead === null ? sentence(`unknown: ${reason}`) : sentence(`not read since ${when(topRead)}: ${reason}`), true);
  }
}

function topKnown({ largest, busiest, undercounted_by: missed, error }) {
  topRead = new Date();
  const none = [['none yet']];
  const conversations = (largest ?? []).map(({ id, members, total_messages: messages }) => [id, members, messages ?? 'unknown']);
  fill('#largest', largest === null ? [['unknown']] : conversations.length ? conversations : none);
  fill('#busiest', busiest.length ? busiest.map(({ id, messages }) => [id, messages]) : none);
  for (const table of ['#largest', '#busiest']) find(table).removeAttribute('data-old');
  const reason = largest === null ? `unknown: ${error}` : error;
  note('#largest', reason ? sentence(reason) : 'Read once a minute.', Boolean(reason));
  note('#busiest', missed ? `Each may have up to ${count.format(missed)} more.` : 'Messages that this node stored.');
}

async function showTop() {
  if (page.dataset.view !== 'panel' || document.hidden || find('#tools').hidden) return;
  topAsked = Date.now();
  try {
    const response = await askFor(address(`conversations/top?limit=${TOP}`));
    const said = await response.json().catch(() => null); // a proxy answers in its own words
    if (response.ok && said !== null) topKnown(said);
    else topUnread(reasonIn(said, `answer ${response.status}`));
  } catch {
    topUnread('the server does not answer');
  }
}

fill('#largest', []);
fill('#busiest', []);
setInterval(() => {
  if (Math.abs(Date.now() - topAsked) >= TOP_EVERY * 1000) void showTop();
}, 1000);
document.addEventListener('visibilitychange', () => void showTop());

// --- one user ------------------------------------------------------------------------------------------------------

let looked = null; // the user whose connections are shown
let found = null; // what was found of a user, and when: it is not looked up again by itself
const FRESH = 60; // seconds in which it counts as of now

function forget(text = '', bad = false) {
  looked = null;
  found = null;
  find('#disconnect').hidden = true;
  find('#user-state').textContent = text;
  find('#user-state').toggleAttribute('data-bad', bad);
}

/** Is it still this user who is asked about? */
const meant = (user) => find('#user').value === user;

/** Ask about a user, or disconnect them; the parsed answer (null without a body), or null after saying what went wrong. */
async function about(user, method) {
  let problem = 'The server does not answer. Try again.';
  try {
    const response = await askFor(address(`users/connections?id=${encodeURIComponent(user)}`), { method });
    const said = response.status === 204 ? {} : await response.json().catch(() => null);
    if (response.ok && said !== null) return said;
    problem = sentence(reasonIn(said, `answer ${response.status}`));
  } catch {} // it is said below
  if (meant(user)) forget(problem, true);
  return null;
}

async function lookUp(user, before = '') {
  const said = await about(user, 'GET');
  if (said === null || !meant(user)) return;
  const known = said.opened_at.length;
  const unsure = said.error === null ? '' : ` ${sentence(said.error)}`;
  if (!known) {
    forget(`${before}${called(user)} is ${unsure ? 'perhaps' : 'not'} connected.${unsure}`, Boolean(unsure));
  } else {
    const since = new Date(said.opened_at[0]);
    const devices = known === 1 ? 'one device' : `${count.format(known)} devices`;
    const places = (said.nodes ?? []).filter((node) => node.connections).map((node) => `${node.name}: ${count.format(node.connections)}`);
    const where = places.length > 1 ? ` (${places.join(', ')})` : '';
    forget(`${before}${called(user)} is connected since ${when(since)}${unsure ? ' or before' : ''}, on ${unsure ? 'at least ' : ''}${devices}${where}.${unsure}`, Boolean(unsure));
  }
  found = { text: find('#user-state').textContent, at: new Date() };
  if (!known && !unsure) return;
  offerToDisconnect(user);
}

function offerToDisconnect(user) {
  looked = user;
  find('#disconnect').hidden = false;
}

setInterval(() => {
  if (found === null || Date.now() - found.at < FRESH * 1000) return;
  const text = `At ${when(found.at)}: ${found.text}`;
  if (find('#user-state').textContent !== text) find('#user-state').textContent = text;
}, 1000);

find('#look-up').addEventListener('submit', (event) => {
  event.preventDefault();
  const user = find('#user').value;
  if (user === '') forget('Which user? Type their name, as in the token’s sub.');
  else void lookUp(user);
});

find('#user').addEventListener('input', () => {
  if (find('#user').value !== looked) forget(); // what is shown is about somebody else
});

find('#disconnect').addEventListener('click', async () => {
  const user = looked;
  if (user === null) return;
  if ((await about(user, 'DELETE')) !== null) await lookUp(user, 'Disconnected. ');
  else if (meant(user)) offerToDisconnect(user); // perhaps not everywhere: again
  const button = find('#disconnect');
  const lost = [button, document.body].includes(document.activeElement);
  if (button.hidden && lost) find('#user').focus(); // or the keyboard begins at the top again
});

window.addEventListener('hashchange', () => {
  const entering = window.messagingLink.take();
  if (entering) void answered(entering);
});

if (window.messagingLink.entering) void answered(window.messagingLink.entering);
else if (page.dataset.view === 'panel') enter({ user: page.dataset.user, expires_at: page.dataset.expires });
else find('#token').focus();
