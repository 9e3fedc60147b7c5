"""The report's style sheet: light and dark, from a phone to a wide screen."""

STYLE = """
:root { color-scheme: light dark;
  --back: light-dark(#f6f7f9, #14161a); --card: light-dark(#fff, #1d2026); --text: light-dark(#1b1f26, #e6e8ec);
  --soft: light-dark(#5d6673, #9aa3b0); --line: light-dark(#dfe3e8, #31363f); --c0: light-dark(#1f6fd1, #6aaeff);
  --c1: light-dark(#d9822b, #f0a860); --c2: light-dark(#2d9d63, #5fd39a); --warn: light-dark(#fff1d6, #3d3017); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: var(--back); color: var(--text); }
header, main { max-width: 80rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .8rem; scroll-margin-top: 4rem; }
h3 { font-size: 1rem; margin: .5rem 0; }
.lead { color: var(--soft); margin: .3rem 0 .8rem; }
nav { display: flex; gap: .2rem 1.2rem; flex-wrap: wrap; }
a { color: var(--c0); }
.note { background: var(--warn); border-radius: .5rem; padding: .6rem .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; }
.tile, article, .chart, .panel { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.tile { padding: .8rem 1rem; }
.tile .value { font-size: 1.9rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile .interval, .ends, .file, .soft { color: var(--soft); font-size: .82rem; font-variant-numeric: tabular-nums; }
.scale { position: relative; height: .4rem; margin: .5rem 0 .1rem; background: var(--line); border-radius: 1rem; }
.scale i { position: absolute; inset: 0 auto; background: var(--c0); opacity: .45; border-radius: 1rem; }
.scale b { position: absolute; top: -.15rem; width: .2rem; height: .7rem; margin-left: -.1rem; background: var(--c0);
  border-radius: 1rem; }
.ends { display: flex; justify-content: space-between; font-size: .7rem; }
.bar { display: none; }
.bar + .cards { margin-top: .3rem; }
.soft { margin: 0 0 .4rem; }
.live .bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .5rem; align-items: center;
  background: var(--back); padding: .6rem 0; }
.bar button, .bar select, .bar input, .more { font: inherit; color: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; padding: .35rem .7rem; min-height: 2.4rem; }
.bar [role=group] { display: flex; }
.bar [role=group] button { border-radius: 0; margin-left: -1px; cursor: pointer; }
.bar [role=group] button:first-child { border-radius: .5rem 0 0 .5rem; }
.bar [role=group] button:last-child { border-radius: 0 .5rem .5rem 0; }
.bar [aria-pressed=true] { background: var(--c0); border-color: var(--c0); color: light-dark(#fff, #10141a); }
.bar input { flex: 1 1 12rem; min-width: 0; }
.bar output { color: var(--soft); font-size: .9rem; white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; align-items: start; }
article { overflow: hidden; content-visibility: auto; contain-intrinsic-size: auto 22rem; }
.frame { aspect-ratio: 4 / 3; display: grid; place-items: center; background: light-dark(#eceff3, #0e1013);
  color: var(--soft); font-size: .85rem; }
.picture { position: relative; }
.picture img { display: block; width: 100%; height: auto; }
.picture canvas { position: absolute; pointer-events: none; }
.text { padding: .7rem .9rem .8rem; }
.text p { margin: 0 0 .4rem; }
.caption { font-weight: 600; line-height: 1.45; }
.caption button { all: unset; cursor: pointer; border-radius: .25rem; padding: 0 .1rem; margin: 0 -.1rem;
  border-bottom: 2px dotted var(--line); }
.caption button:hover, .caption button:focus-visible, .caption button.on { background: var(--c0);
  color: light-dark(#fff, #10141a); }
.reference::before { content: "“"; } .reference::after { content: "”"; }
.reference { color: var(--soft); font-size: .9rem; line-height: 1.4; }
.scores { display: flex; flex-wrap: wrap; gap: .1rem .75rem; font-size: .9rem; font-variant-numeric: tabular-nums; }
.scores small { color: var(--soft); }
.text details { font-size: .9rem; }
summary { cursor: pointer; color: var(--soft); min-height: 1.8rem; }
ul { margin: .2rem 0 .5rem; padding-left: 1.1rem; }
.file { overflow-wrap: anywhere; margin-top: .3rem !important; }
.strip > div { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.6rem, 1fr)); gap: .4rem;
  margin: .3rem 0; }
.strip figure { margin: 0; font-size: .75rem; text-align: center; }
.more { display: none; margin: 1rem auto; cursor: pointer; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem;
  margin-bottom: 1rem; align-items: start; }
.charts .panel { margin: 0; }
.chart { margin: 0; padding: .8rem .9rem .4rem; }
.chart figcaption { font-weight: 600; display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
.legend { font-weight: 400; font-size: .85rem; display: flex; gap: .9rem; color: var(--soft); }
.legend span::before { content: ""; display: inline-block; width: .7rem; height: .7rem; border-radius: .2rem;
  margin-right: .35rem; background: var(--c); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.grid { stroke: var(--line); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.dot, .column { fill: var(--c); }
.panel { padding: .3rem 1rem .8rem; margin-bottom: 1rem; }
.panel > summary { font-weight: 600; color: inherit; padding: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; font-weight: 400; }
thead th { color: var(--soft); font-weight: 400; font-size: .85rem; }
.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .25rem 1.2rem; margin: 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
footer { color: var(--soft); font-size: .85rem; padding: 2rem 0; }
@media (min-width: 40.01rem) {
  article:has(.strip[open]) { grid-column: 1 / -1; display: grid; grid-template-columns: 16rem 1fr; }
}
@media (max-width: 40rem) {
  header, main { padding-left: .9rem; padding-right: .9rem; }
  header { padding-top: 1.2rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: .6rem; }
  .live .bar { position: static; }
  .bar [role=group] { flex: 1 1 100%; }
  .bar [role=group] button { flex: 1; padding: .35rem .2rem; }
  .bar select { flex: 1 1 8rem; min-width: 0; }
  .facts { grid-template-columns: minmax(0, 8.5rem) 1fr; gap: .25rem .8rem; font-size: .9rem; }
  .facts dt { overflow-wrap: anywhere; }
}
@media print { .bar, .more, nav { display: none !important; } }
"""
