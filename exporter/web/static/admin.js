// The admin page around <messaging-stats>: signing in, signing out, and saying why it is over.

import './messaging-stats.js';

const page = document.documentElement;
const find = (selector) => document.querySelector(selector);
const time = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const count = new Intl.NumberFormat('en');
const INTRODUCTION = find('#why').textContent;

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

/** Show the figures to `user` until `expires` (RFC 3339). */
function enter({ user, expires_at: expires }) {
  page.dataset.view = 'panel';
  page.dataset.expires = expires;
  find('#who').textContent = `${user}, until ${time.format(new Date(expires))}`;
  find('#token').value = '';
  const stats = document.createElement('messaging-stats');
  stats.src = new URL(find('#panel').dataset.src, document.baseURI).pathname;
  const refresh = new URLSearchParams(location.search).get('refresh');
  if (refresh) stats.refresh = refresh;
  find('#panel').replaceChildren(stats);
}

/** Show the form, and why: `reason` in place of the introduction, `problem` with what was typed. */
function ask(reason = INTRODUCTION, problem = '') {
  page.dataset.view = 'sign-in';
  document.title = 'Messaging';
  find('#panel').replaceChildren();
  find('#why').textContent = reason;
  find('#problem').textContent = problem;
  find('#token').toggleAttribute('aria-invalid', problem !== '');
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
  if ('user' in said) {
    enter(said);
    find('h1').focus();
  } else {
    ask(INTRODUCTION, said.detail ? sentence(said.detail) : 'The server is in trouble. Try again.');
  }
}

function post(form, body) {
  return fetch(form.action, { method: 'POST', headers: { Accept: 'application/json' }, body });
}

find('.sign-in form').addEventListener('submit', (event) => {
  event.preventDefault();
  void answered(post(event.target, new URLSearchParams({ token: find('#token').value.trim() })));
});

find('.session').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    await post(event.target);
    ask('You have signed out.');
  } catch {
    event.target.submit(); // the browser says what is wrong
  }
});

find('#panel').addEventListener('messaging-stats-denied', (event) => {
  const end = new Date(page.dataset.expires);
  const over = end <= new Date(Date.now() + 1000);
  ask(
    over
      ? `Your sign-in expired at ${time.format(end)}. Sign in again to go on.`
      : `Your sign-in no longer holds: ${event.detail.reason}. Sign in again to go on.`,
  );
});

find('#panel').addEventListener('messaging-stats-update', (event) => {
  const connections = event.detail.active_connections;
  document.title = typeof connections === 'number' ? `${count.format(connections)} connected · Messaging` : 'Messaging';
});

window.addEventListener('hashchange', () => {
  const entering = window.messagingLink.take();
  if (entering) void answered(entering);
});

if (window.messagingLink.entering) void answered(window.messagingLink.entering);
else if (page.dataset.view === 'panel') enter({ user: page.dataset.user, expires_at: page.dataset.expires });
else find('#token').focus();
