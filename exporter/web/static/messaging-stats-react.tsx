'use client';
// The figures of a messaging-exporter in React 18 and 19: a hook for your own markup, a component for the whole panel.
// Keep this file beside messaging-stats.js and messaging-stats.d.ts; it needs nothing else.
//
// `token` may be a function that gets one in the browser. Do so where pages are rendered on a server: whatever a server
// component hands to this file is written into the HTML, and a function cannot be.

import { createElement, useEffect, useRef, useState, type CSSProperties, type ReactElement } from 'react';
import {
  StatsClient,
  type Labels,
  type MessagingStats as MessagingStatsElement,
  type Stats,
  type StatsFailure,
  type StatsState,
  type Token,
} from './messaging-stats.js';

export type { Labels, Stats, StatsState, Token };

/** What is known now: the latest figures stay while the server is away, with `error` saying why. */
export interface MessagingStatsResult {
  stats: Stats | null;
  status: 'connecting' | 'live' | 'lost' | 'denied';
  error: StatsFailure | null;
}

const NOTHING: MessagingStatsResult = { stats: null, status: 'connecting', error: null };

/** The latest value, for what must not start anything anew when a parent renders. */
function useLatest<T>(value: T): { current: T } {
  const ref = useRef(value);
  useEffect(() => {
    ref.current = value;
  });
  return ref;
}

/** A token as it is, and a function as one that stays the same from render to render. */
function useToken(token: Token): Token {
  const latest = useLatest(token);
  const [getter] = useState(() => () => (typeof latest.current === 'function' ? latest.current() : latest.current));
  return typeof token === 'function' ? getter : token;
}

/**
 * The figures of `/v1/messaging/stats` at `url`, asked every `refresh` seconds (2) while the component is mounted and
 * the page is seen. `token` is of role admin: a string, a function that gets one, or null for the admin page's cookie.
 */
export function useMessagingStats(url: string, token: Token = null, refresh = 2): MessagingStatsResult {
  const [result, setResult] = useState({ url, ...NOTHING });
  const bearer = useToken(token);
  useEffect(() => {
    const show = () => setResult({ url, stats: client.stats, status: client.status, error: client.failure });
    const client = new StatsClient({ src: url, token: bearer, refresh, details: false, onChange: show });
    client.start();
    return () => client.stop();
  }, [url, bearer, refresh]);
  return result.url === url ? result : NOTHING; // figures of one server are not those of another
}

export interface MessagingStatsProps {
  url: string;
  token?: Token;
  refresh?: number;
  labels?: Labels | null;
  onUpdate?: (stats: Stats) => void;
  onState?: (state: StatsState) => void;
  onDenied?: (reason: { status: number; reason: string }) => void;
  className?: string;
  style?: CSSProperties;
  lang?: string;
}

/** The whole panel. It is made in the browser alone, so that a server renders an empty place and no token. */
export function MessagingStats(props: MessagingStatsProps): ReactElement {
  const { url, token = null, refresh = 2, labels = null, className, style, lang } = props;
  const place = useRef<HTMLDivElement>(null);
  const panel = useRef<MessagingStatsElement | null>(null);
  const latest = useLatest(props);
  const bearer = useToken(token);
  useEffect(() => {
    const element = document.createElement('messaging-stats');
    element.addEventListener('messaging-stats-update', (event) => latest.current.onUpdate?.(event.detail));
    element.addEventListener('messaging-stats-state', (event) => latest.current.onState?.(event.detail));
    element.addEventListener('messaging-stats-denied', (event) => latest.current.onDenied?.(event.detail));
    panel.current = element;
    return () => element.remove();
  }, [latest]);
  useEffect(() => {
    if (panel.current === null) return;
    Object.assign(panel.current, { src: url, token: bearer, refresh, labels });
    if (!panel.current.isConnected) place.current?.append(panel.current);
  }, [url, bearer, refresh, labels]);
  return createElement('div', { ref: place, className, style, lang });
}
