// A link such as /admin#token=… signs in by itself. The token leaves the address bar and the history of the browser
// before anything is drawn, which is why this small script is no module. `admin.js` takes the answer.
(() => {
  const address = new URL('../sign-in', document.currentScript.src);

  /** The answer to the token in the address, null when there is none. */
  const take = () => {
    const match = /^#token=(.+)$/.exec(location.hash);
    if (match === null) return null;
    history.replaceState(null, '', location.pathname + location.search);
    document.documentElement.dataset.view = 'entering';
    return fetch(address, {
      method: 'POST',
      headers: { Accept: 'application/json' },
      body: new URLSearchParams({ token: match[1] }),
      signal: AbortSignal.timeout(15000),
    });
  };

  window.messagingLink = { take, entering: take() };
})();
