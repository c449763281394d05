# SPDX-License-Identifier: GPL-3.0-or-later
"""The look of the page: readable at 3 a.m., on paper, light and dark; colours never say anything alone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #566274; --line: #d9dee6;
  --gap: #c3c9d2; --good: #1a7f4b; --warn: #9a6200; --bad: #b3261e; --plan: #2b5fb0;
  --c0: #2f6fb3; --c1: #2f8f5b; --c2: #b3762f; --c3: #8a4fa3; --c4: #2f9a9a; --c5: #b3433f;
  --c6: #6b7f2a; --c7: #55609f; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #12161d; --card: #1b212b; --ink: #e6eaf0;
  --soft: #9aa6b7; --line: #323b49; --gap: #465062; --good: #58c48b; --warn: #e0a84a; --bad: #f2857d; --plan: #86b0f0;
  --c0: #5b9be0; --c1: #57bd86; --c2: #dca05a; --c3: #b984d2; --c4: #57c4c4; --c5: #e07b77;
  --c6: #a6bd58; --c7: #8d98de; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 0 0 .75rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .35rem; color: var(--soft); }
h3 span { font-weight: 400; } .sides h3 { margin-top: .4rem; }
section, header { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1.1rem 1.3rem;
  margin: 0 0 1rem; }
header { border-left: .5rem solid var(--tone); }
header h1 { color: var(--tone); }
header p { margin: .4rem 0 0; }
.done { --tone: var(--good); } .incomplete { --tone: var(--warn); } .failed { --tone: var(--bad); }
.planned { --tone: var(--plan); }
.soft { color: var(--soft); }
.next { border: 2px solid var(--ink); }
.next ol { margin: 0; padding-left: 1.4rem; font-size: 1.08rem; } .next li { margin: .3rem 0; }
.error { border-left: .5rem solid var(--bad); } .error p { margin: .3rem 0; }
.warnings { border-left: .5rem solid var(--warn); }
ul { margin: 0; padding-left: 1.3rem; }
dl { margin: 0; } dl div { display: flex; gap: .8rem; padding: .12rem 0; }
dt { flex: 0 0 6.2rem; color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem; }
@media (max-width: 44rem) { .sides { grid-template-columns: 1fr; } }
.strip { display: block; width: 100%; height: auto; font-size: 13px; fill: var(--ink); }
.strip .outline { fill: none; stroke: var(--soft); stroke-width: 1; }
.strip .edge { fill: var(--card); } .strip .free { opacity: .26; } .strip .used { opacity: 1; }
.legend { list-style: none; padding: 0; margin: .1rem 0 .6rem; display: flex; flex-wrap: wrap; gap: .1rem 1.4rem;
  font-size: .9rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em;
  background: currentColor; }
svg .c0 { fill: var(--c0); } svg .c1 { fill: var(--c1); } svg .c2 { fill: var(--c2); } svg .c3 { fill: var(--c3); }
svg .c4 { fill: var(--c4); } svg .c5 { fill: var(--c5); } svg .c6 { fill: var(--c6); } svg .c7 { fill: var(--c7); }
svg .gap { fill: var(--gap); }
i.c0 { color: var(--c0); } i.c1 { color: var(--c1); } i.c2 { color: var(--c2); } i.c3 { color: var(--c3); }
i.c4 { color: var(--c4); } i.c5 { color: var(--c5); } i.c6 { color: var(--c6); } i.c7 { color: var(--c7); }
i.gap { color: var(--gap); }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.numbers td:nth-last-child(-n+3), .numbers th:nth-last-child(-n+3) { text-align: right; white-space: nowrap; }
.mark { font-weight: 700; white-space: nowrap; } .mark.done { color: var(--good); } .mark.failed { color: var(--bad); }
.steps td:nth-last-child(-n+2) { white-space: nowrap; }
.mark.open { color: var(--soft); font-weight: 400; }
pre { margin: .6rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .82rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; }
footer { max-width: 62rem; margin: 0 auto; color: var(--soft); font-size: .85rem; }
@media print { :root { font-size: 11px; } body { background: none; padding: 0; }
  section, header { break-inside: avoid; padding: .6rem .9rem; }
  section.disk { break-inside: auto; } section.log { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
