// A dashboard drawn with Grafana's own components: the panels' chrome, numbers, bars, courses, legends and tables are
// those of @grafana/ui, and mappings, thresholds, overrides and transformations those of @grafana/data. Around them
// stands what Grafana keeps in its server's own code, as thin as it can be: the grid, and which component a kind is.
// Two kinds have no component outside of that code, and are drawn here in their place: heat maps and state timelines.
import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';
import React from 'react';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  applyFieldOverrides, applyNullInsertThreshold, cacheFieldDisplayNames, createTheme, dateTime, FieldType, getDisplayProcessor, getDisplayValueAlignmentFactors, getFieldDisplayName, getFieldDisplayValues,
  Registry, standardTransformers, standardTransformersRegistry, toDataFrame,
  ThemeContext, transformDataFrame,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, Icon, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const { dashboard, answers, start, end, step, caption } = window.PICTURE;
const theme = createTheme({ colors: { mode: 'dark' } });
const range = { from: dateTime(start), to: dateTime(end), raw: { from: dateTime(start), to: dateTime(end) } };
const text = (value) => value;
const [GAP, ROW] = [8, 30]; // pixels between the cells of Grafana's grid, and of a row

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation: async () => transformation, imageDark: '', imageLight: '',
  }))
);
// Grafana registers each setting with its editor; for drawing, a setting is its value.
const settings = new Registry(() =>
  [
    'unit', 'decimals', 'color', 'thresholds', 'mappings', 'links', 'min', 'max', 'noValue', 'displayName',
    ...['drawStyle', 'lineInterpolation', 'lineWidth', 'fillOpacity', 'gradientMode', 'lineStyle', 'spanNulls',
      'showPoints', 'pointSize', 'stacking', 'axisPlacement', 'axisColorMode', 'axisSoftMax', 'axisSoftMin', 'axisLabel',
      'axisGridShow', 'axisBorderShow', 'axisCenteredZero', 'scaleDistribution', 'thresholdsStyle', 'hideFrom',
      'cellOptions', 'width', 'minWidth', 'align', 'inspect', 'filterable'].map((name) => `custom.${name}`),
  ].map((id) => ({
    id, name: id, isCustom: id.startsWith('custom.'), path: id.replace('custom.', ''),
    process: text, shouldApply: () => true, override: () => null, editor: () => null,
  }))
);
const OF_COURSES = {
  drawStyle: 'line', lineInterpolation: 'linear', gradientMode: 'none', spanNulls: false, pointSize: 5,
  axisPlacement: 'auto', axisColorMode: 'text', scaleDistribution: { type: 'linear' }, axisGridShow: true,
  hideFrom: { tooltip: false, viz: false, legend: false }, thresholdsStyle: { mode: 'off' }, showPoints: 'auto',
};
const OF_TABLES = { align: 'auto', cellOptions: { type: 'auto' }, inspect: false };

// JSON has no infinity: a threshold's base is null there, and Grafana restores it when it loads a dashboard.
const allPanels = dashboard.panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]);
for (const { fieldConfig } of allPanels) {
  const inOverrides = (fieldConfig?.overrides ?? []).flatMap(({ properties }) => properties)
    .filter(({ id }) => id === 'thresholds').map(({ value }) => value);
  for (const thresholds of [fieldConfig?.defaults.thresholds, ...inOverrides]) {
    for (const step of thresholds?.steps ?? []) {
      step.value ??= -Infinity;
    }
  }
}

async function data(panel) {
  const frames = answers[panel.id].map((frame) => toDataFrame(frame));
  if (!panel.transformations) {
    return frames;
  }
  return lastValueFrom(transformDataFrame(panel.transformations, frames));
}

function overridden(panel, frames) {
  const { defaults, overrides } = panel.fieldConfig;
  const custom = panel.type === 'timeseries' ? OF_COURSES : panel.type === 'table' ? OF_TABLES : {};
  const drawn = applyFieldOverrides({
    data: frames,
    fieldConfig: { defaults: { color: { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' },
      ...defaults, custom: { ...custom, ...defaults.custom } }, overrides },
    fieldConfigRegistry: settings, replaceVariables: text, theme, timeZone: 'utc',
  });
  cacheFieldDisplayNames(drawn);
  return drawn;
}

function numbers(panel, frames) {
  const { defaults, overrides } = panel.fieldConfig;
  return getFieldDisplayValues({
    fieldConfig: { defaults: { color: { mode: 'thresholds' }, ...defaults }, overrides },
    reduceOptions: { values: false, calcs: [], ...panel.options.reduceOptions },
    replaceVariables: text, theme, data: overridden(panel, frames), timeZone: 'utc',
    sparkline: panel.options.graphMode === 'area',
  });
}

const Stat = ({ panel, frames, width, height }) => (
  <VizRepeater
    getValues={() => numbers(panel, frames)}
    getAlignmentFactors={getDisplayValueAlignmentFactors} orientation={panel.options.orientation ?? 'auto'} source={frames}
    width={width} height={height} itemSpacing={3} autoGrid={true} renderCounter={0}
    renderValue={({ value, count, alignmentFactors, ...size }) => (
      <BigValue
        value={value.display} count={count} sparkline={value.sparkline} theme={theme} alignmentFactors={alignmentFactors}
        colorMode={panel.options.colorMode ?? 'value'} graphMode={panel.options.graphMode ?? 'area'}
        text={panel.options.text} justifyMode="auto" textMode={panel.options.textMode ?? 'auto'} disableWideLayout={panel.options.wideLayout === false}
        width={size.width} height={size.height}
      />
    )}
  />
);

const Bars = ({ panel, frames, width, height }) => (
  <VizRepeater
    getValues={() => numbers(panel, frames)}
    getAlignmentFactors={getDisplayValueAlignmentFactors} orientation={panel.options.orientation} source={frames}
    width={width} height={height} itemSpacing={10} renderCounter={0} minVizHeight={16} minVizWidth={8}
    renderValue={({ value, orientation, alignmentFactors, ...size }) => (
      <BarGauge
        value={value.display} field={value.field} display={value.view ? value.view.getFieldDisplayProcessor?.(value.colIndex) : undefined}
        text={panel.options.text} orientation={orientation} theme={theme} itemSpacing={10} lcdCellWidth={8}
        displayMode={panel.options.displayMode} alignmentFactors={alignmentFactors} showUnfilled={true}
        namePlacement={panel.options.namePlacement} valueDisplayMode="color" width={size.width} height={size.height}
      />
    )}
  />
);

// As the panel of courses does before it draws: known colours, and gaps where nothing was answered.
function Courses({ panel, frames, width, height }) {
  const gaps = (frame) => applyNullInsertThreshold({ frame, refFieldPseudoMin: start, refFieldPseudoMax: end });
  const drawn = overridden(panel, frames.map(gaps)).filter((frame) => frame.fields.length > 1);
  if (!drawn.length) {
    return <Empty words="No data" />;
  }
  let index = 0;
  for (const frame of drawn) {
    for (const field of frame.fields) {
      if (field.type === FieldType.number) {
        field.state = { ...field.state, seriesIndex: index++ };
        field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
      }
    }
  }
  return (
    <TimeSeries
      frames={drawn} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height}
      legend={panel.options.legend} options={panel.options}
    />
  );
}

function Rows({ panel, frames, width, height }) {
  const [frame] = overridden(panel, frames);
  if (!frame || !frame.length) {
    return <Empty words={panel.fieldConfig.defaults.noValue ?? 'No data'} />;
  }
  return (
    <TableNG
      data={frame} width={width} height={height} structureRev={1} sortBy={panel.options.sortBy}
      showTypeIcons={false} enableVirtualization={false} timeRange={range} cellHeight="sm"
      getActions={() => []} fieldConfig={panel.fieldConfig} replaceVariables={text}
    />
  );
}

function States({ panel, frames, width, height }) {
  const names = overridden(panel, frames).flatMap((frame) => frame.fields.slice(1).map((field) => [frame, field]));
  if (!names.length) {
    return <Empty words="No data" />;
  }
  const each = Math.min(26, height / names.length);
  const pen = document.createElement('canvas').getContext('2d'); // an axis is as wide as its longest word, and a gap
  pen.font = `12px ${theme.typography.fontFamily}`;
  const axis = 16 + Math.max(...names.map(([frame, field]) => pen.measureText(getFieldDisplayName(field, frame)).width));
  const at = (time) => ((width - axis) * (time - start)) / (end - start);
  return (
    <svg width={width} height={height}>
      {names.map(([frame, field], row) => (
        <g key={row} transform={`translate(0 ${row * each})`}>
          <text y={each * 0.6} fill={theme.colors.text.secondary} fontSize="12">{getFieldDisplayName(field, frame)}</text>
          {frame.fields[0].values.map((time, i) => (
            <rect key={i} x={axis + at(time)} width={at(start + step) + 0.5} y={2} height={each - 6}
              fill={getDisplayProcessor({ field, theme })(field.values[i]).color} />
          ))}
        </g>
      ))}
    </svg>
  );
}

function Warmth({ frames, width, height }) {
  const buckets = frames.map((frame) => [Number(frame.fields[1].labels.le.replace('+Inf', 'Infinity')), frame]).sort(([a], [b]) => a - b);
  const most = Math.max(1e-9, ...buckets.flatMap(([, frame], i) =>
    frame.fields[1].values.map((v, t) => v - (i ? buckets[i - 1][1].fields[1].values[t] : 0))));
  const at = (time) => 40 + ((width - 40) * (time - start)) / (end - start);
  return (
    <svg width={width} height={height}>
      {buckets.map(([le, frame], i) => (
        <g key={le}>
          <text y={height - (i + 0.2) * (height / buckets.length)} fill={theme.colors.text.secondary} fontSize="10">{le === Infinity ? '+Inf' : le}</text>
          {frame.fields[0].values.map((time, t) => {
            const value = frame.fields[1].values[t] - (i ? buckets[i - 1][1].fields[1].values[t] : 0);
            return value > 0 && <rect key={t} x={at(time)} width={at(start + step) - 40 + 0.5} fill="orange"
              opacity={value / most} y={height - (i + 1) * (height / buckets.length)} height={height / buckets.length} />;
          })}
        </g>
      ))}
    </svg>
  );
}

const Empty = ({ words }) => (
  <div style={{ display: 'grid', placeItems: 'center', height: '100%', color: theme.colors.text.secondary }}>{words}</div>
);
const KINDS = {
  stat: Stat, bargauge: Bars, timeseries: Courses, table: Rows, 'state-timeline': States, heatmap: Warmth,
};

function Panel({ panel, frames, column }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: x * (column + GAP), top: y * (ROW + GAP) };
  if (panel.type === 'row') {
    const closed = panel.collapsed ? <span style={{ color: theme.colors.text.secondary }}> ({panel.panels.length} panels)</span> : '';
    return <div style={{ ...place, paddingTop: 6, fontWeight: 500 }}>
      <Icon name={panel.collapsed ? 'angle-right' : 'angle-down'} /> {panel.title}{closed}</div>;
  }
  const Kind = KINDS[panel.type];
  const links = (panel.links ?? []).length ? <span style={{ padding: 8 }}><Icon name="external-link-alt" /></span> : undefined;
  return (
    <div style={place} data-panel={panel.title}>
      <PanelChrome
        title={panel.title} description={panel.description} titleItems={links} hoverHeader={false}
        menu={<div />} width={w * column + (w - 1) * GAP} height={h * ROW + (h - 1) * GAP}
      >
        {(width, height) => <Kind panel={panel} frames={frames} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

function Dashboard({ frames }) {
  const width = window.innerWidth - 32;
  const column = (width - 23 * GAP) / 24;
  const rows = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h));
  return (
    <div style={{ padding: '0 16px 16px', background: theme.colors.background.canvas }}>
      <div style={{ height: 48, display: 'flex', alignItems: 'center', gap: 12, fontSize: 14 }}>
        <b>{dashboard.title}</b>
        <span style={{ color: theme.colors.text.secondary }}>{caption}</span>
      </div>
      <div style={{ position: 'relative', height: rows * (ROW + GAP) }}>
        {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} frames={frames[panel.id]} column={column} />)}
      </div>
    </div>
  );
}

Promise.all(
  dashboard.panels.filter((panel) => answers[panel.id]).map(async (panel) => [panel.id, await data(panel)])
).then((found) => {
  createRoot(document.getElementById('root')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Dashboard frames={Object.fromEntries(found)} />
    </ThemeContext.Provider>
  );
  window.DRAWN = true;
});
