"""The page's style. States differ in colour, in shape and in word: blue, orange and
vermilion are told apart by (nearly) every eye."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1b1f24; --dim: #59636e; --line: #d5dae0; --card: #f5f7f9;
  --good: #0072b2; --low: #e69f00; --bad: #c8440a; --soft: #a8cbe2; --on-bad: #fff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e6e9ed; --dim: #9aa5b1; --line: #343c46; --card: #1d232a;
    --good: #56b4e9; --low: #e69f00; --bad: #ff8552; --soft: #2f5b78; --on-bad: #14181d;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; padding: 1rem 1.25rem 3rem; max-width: 76rem;
  font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--paper);
}
a { color: var(--good) }
:focus-visible { outline: 2px solid var(--good); outline-offset: 2px }
header { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; align-items: baseline;
  border-bottom: 1px solid var(--line); padding-bottom: .6rem }
h1 { font-size: 1.3rem; margin: 0 }
h1 a { color: inherit; text-decoration: none }
nav { display: flex; gap: 1rem }
header .when { margin-left: auto; color: var(--dim) }
h2 { font-size: 1.05rem; margin: 1.9rem 0 .5rem }
h2 small, .note { color: var(--dim); font-weight: normal; font-size: .9rem }
p { margin: .4rem 0 }
main { overflow-wrap: anywhere }
.nothing { color: var(--dim) }
.banner { background: var(--bad); color: var(--on-bad); padding: .8rem 1rem;
  margin: 1rem 0 0; border-radius: 4px; font-weight: 600; overflow-wrap: anywhere }
.banner span { display: block; font-weight: normal }
.old main { opacity: .55 }
.tiles { display: grid; gap: .75rem; margin: 1rem 0 0; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)) }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 4px;
  padding: .55rem .8rem; border-left-width: 4px }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.3;
  font-variant-numeric: tabular-nums }
.tiles .fine { border-left-color: var(--good) }
.tiles .warn { border-left-color: var(--low) }
.tiles .wrong { border-left-color: var(--bad) }
.tiles small { color: var(--dim); font-size: .85rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; width: 100% }
th { font-weight: 600; color: var(--dim); font-size: .85rem; text-align: left;
  overflow-wrap: normal }
th, td { padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top }
td { min-width: 4rem }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap }
.id, .state, .whole, time { white-space: nowrap }
.clip { display: inline-block; max-width: 18rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; vertical-align: bottom }
.id { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em }
.state::before { display: inline-block; width: 1.3em }
.live::before { content: "\\25cf"; color: var(--good) }
.draining::before { content: "\\25d1"; color: var(--low) }
.lapsed::before { content: "\\25b2"; color: var(--bad) }
.fenced::before { content: "\\2715"; color: var(--bad) }
.stopped::before { content: "\\25a0"; color: var(--dim) }
.bad { color: var(--bad); font-weight: 600 }
.away { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%) }
svg.bar { display: block; max-width: none; margin-top: .3rem }
.track { fill: var(--line) }
rect.good { fill: var(--good) } rect.low { fill: var(--low) }
rect.over { fill: var(--bad) }
svg.plot { display: block; width: 100%; min-width: 54rem; height: auto }
svg text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--dim) }
svg text.lane { fill: var(--ink) }
.grid { stroke: var(--line); stroke-width: 1 }
.limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 5 4 }
rect.most { fill: var(--soft) } rect.half { fill: var(--good) }
path.now { fill: var(--low); stroke: var(--ink); stroke-width: 1 }
line.span { stroke: var(--good); stroke-width: 3 }
path.fenced { stroke: var(--bad); stroke-width: 3; fill: none }
path.stopped { stroke: var(--dim); stroke-width: 3; fill: none }
circle.taken { fill: var(--good); stroke: var(--paper); stroke-width: 1 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: .3rem 0 0;
  padding: 0 0 .5rem; list-style: none; color: var(--dim); font-size: .88rem }
.legend svg { vertical-align: -2px; margin-right: .4rem }
summary { color: var(--dim); font-size: .9rem; cursor: pointer; margin-top: .4rem }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: end;
  margin: 1rem 0 }
label { display: grid; gap: .15rem; font-size: .85rem; color: var(--dim) }
input, select, button { font: inherit; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 4px;
  padding: .35rem .6rem; max-width: 100% }
button { background: var(--good); color: var(--paper); border-color: var(--good);
  cursor: pointer }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem }
dt { color: var(--dim) }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0 }
pre { margin: 0; padding: .6rem .8rem; background: var(--card); overflow-x: auto;
  border: 1px solid var(--line); border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .9em ui-monospace, "DejaVu Sans Mono", monospace }
@media (max-width: 40rem) {
  body { padding: .8rem .8rem 2rem }
  header .when { margin-left: 0; width: 100% }
  dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem }
}
@media print {
  :root { --paper: #fff; --ink: #000; --dim: #444; --line: #bbb; --card: #fff }
  nav, form, button, .pause, summary { display: none }
  body { max-width: none; padding: 0; font-size: 10pt }
  .scroll { overflow: visible } svg.plot { min-width: 0 }
  tr, .tiles li, svg { break-inside: avoid } h2 { break-after: avoid }
  svg, .banner, .tiles li { print-color-adjust: exact;
    -webkit-print-color-adjust: exact }
}
"""
