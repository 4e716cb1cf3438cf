"""How a report looks: on a phone, on a wide screen, on paper."""

from __future__ import annotations

STYLE = """
:root { --line: #d9d9d9; --soft: #5a5a5a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1b1b1b; font: 16px/1.45 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .2rem 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
section { margin: 1.6rem 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.6rem, 1fr)); gap: .5rem; }
.facts div { border: 1px solid var(--line); border-radius: .4rem; padding: .45rem .6rem; }
.facts b { display: block; font-size: 1.1rem; }
.facts span, .note, figcaption { color: var(--soft); font-size: .86rem; }
.warn { border-left: .35rem solid #D55E00; padding: .4rem .9rem; background: #fdf3ec; }
.warn ul { margin: 0; padding-left: 1.1rem; }
.wide { overflow-x: auto; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: #fff; }
table { border-collapse: collapse; font-size: .86rem; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; }
td.n, th.n { text-align: right; }
td.n .bar { margin-left: auto; }
.cards td:last-child, .cards th:last-child { padding-left: .6rem; min-width: 15rem; }
.heat td { padding: .25rem .5rem; border: 1px solid #fff; text-align: right; }
.heat th { padding: .25rem .5rem; white-space: nowrap; font-weight: 500; text-align: right; }
.heat th:first-child { padding-left: 0; }
.swatch { display: inline-block; min-width: 1.5rem; height: 1.5rem; line-height: 1.5rem; border-radius: .25rem;
  text-align: center; font-style: normal; font-size: .8rem; padding: 0 .2rem; margin-right: .25rem;
  vertical-align: middle; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem; margin: .5rem 0 0; padding: 0;
  font-size: .86rem; }
.bar { display: block; width: 5.5rem; height: .5rem; background: #eee; margin-top: .2rem; }
.bar i { display: block; height: 100%; }
figure { margin: .4rem 0; }
img.map { display: block; width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line); }
.framed { position: relative; aspect-ratio: var(--ratio); max-width: calc(75vh * var(--ratio));
  margin: .6rem .8rem 1.5rem 2.4rem; }
.framed img { display: block; width: 100%; height: 100%; image-rendering: pixelated; outline: 1px solid var(--line); }
.framed span { position: absolute; color: var(--soft); font-size: .75rem; line-height: 1; white-space: nowrap; }
.framed .x { top: 100%; padding-top: .4rem; transform: translateX(-50%); }
.framed .y { right: 100%; padding-right: .4rem; transform: translateY(-50%); }
.framed .x::before, .framed .y::before { content: ""; position: absolute; background: #555; }
.framed .x::before { left: 50%; top: 0; width: 1px; height: .3rem; }
.framed .y::before { top: 50%; right: 0; width: .3rem; height: 1px; }
img.strip { display: block; width: 100%; height: 3.5rem; image-rendering: pixelated; }
img.heatmap { display: block; width: 100%; image-rendering: pixelated; }
.rows { display: grid; grid-template-columns: auto minmax(0, 1fr); }
.rows > div { display: grid; grid-auto-rows: 1fr; align-items: center; }
.rows .swatch { height: 1.4rem; line-height: 1.4rem; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .8rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .4rem 1rem; }
h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
svg { display: block; width: 100%; max-width: 34rem; height: auto; font: 13px system-ui, "DejaVu Sans", sans-serif; }
svg text { fill: #333; }
svg polyline { stroke-width: 2; stroke-linejoin: round; }
select { font: inherit; padding: .2rem .4rem; max-width: 100%; }
details { margin-top: .6rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; font-size: .82rem; }
@media screen and (max-width: 40rem) {
  .cards tr { display: grid; grid-template-columns: 2.2rem repeat(3, 1fr); gap: .15rem .5rem; padding: .5rem 0;
    border-bottom: 1px solid var(--line); }
  .cards tr:first-child { display: none; }
  .cards td { padding: 0; border: 0; text-align: left; }
  .cards td:first-child { grid-row: span 3; }
  .cards td:last-child { grid-column: 2 / -1; padding: 0; min-width: 0; }
  .cards td.n .bar { margin-left: 0; max-width: 100%; }
  .cards td + td::before { content: attr(data-name); display: block; color: var(--soft); font-size: .75rem; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  section { margin: 1rem 0; }
  h2, h3 { break-after: avoid; }
  figure, tr, .facts { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; max-width: 100%; break-inside: avoid; }
  .heat td, .heat th { padding: .15rem .25rem; white-space: normal; }
  .facts { grid-template-columns: repeat(7, 1fr); }
  .charts, .choice { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem 1rem; }
  .choice figure[hidden] { display: block; }
  .choice figure:only-of-type { grid-column: 1 / -1; }
  .framed { max-width: calc(18cm * var(--ratio)); }
  label { display: none; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""

# Shows one of the figures beside a chooser.
CHOOSER = """
function choose(select) {
  const figures = select.closest(".choice").querySelectorAll("figure");
  figures.forEach((figure, i) => { figure.hidden = i !== select.selectedIndex; });
}
"""
