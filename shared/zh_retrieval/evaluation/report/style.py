"""How the page looks: light and dark, one language at a time, no script."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6475; --paper: #fff; --line: #d5dae3; --tint: #f3f5f9;
  --good: #116b3a; --bad: #a8261c; --mark: #2457c5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9f0; --soft: #a3adbf; --paper: #14171d; --line: #39414f;
  --tint: #1e232c; --good: #68cf95; --bad: #ff9188; --mark: #8cb2ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; color: var(--ink);
  background: var(--paper); margin: 0 auto; padding: 1.5rem; max-width: 76rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
.languages { float: right; border: 0; margin: 0; padding: 0; } .languages label { padding: .2rem .5rem; }
body:has(#english:checked) [lang="zh-Hans"], body:has(#chinese:checked) [lang="en"] { display: none; }
.notice { border-left: .3rem solid var(--bad); padding: .5rem 1rem; background: var(--tint); }
.soft { color: var(--soft); font-size: .9rem; } .good { color: var(--good); } .bad { color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
td small { display: block; color: var(--soft); white-space: nowrap; } td { white-space: nowrap; }
th:first-child, td:first-child, .text td, .text th { text-align: left; white-space: normal; }
th:first-child { min-width: 11rem; } .text td { overflow-wrap: anywhere; }
thead th { background: var(--tint); font-weight: 600; white-space: nowrap; }
svg { max-width: 100%; height: auto; display: block; }
details { border: 1px solid var(--line); border-radius: .3rem; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; } details details { background: var(--tint); }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.sides h4 { margin: .6rem 0 .2rem; overflow-wrap: anywhere; } .sides ol { margin: 0; padding-left: 1.4rem; }
.passage { overflow-wrap: anywhere; white-space: pre-line; font-size: .92rem; }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
@media print { .languages { display: none; } }
"""
