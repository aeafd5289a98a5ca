"""The style sheet of the report: light and dark, phone and desktop."""

CSS = """
:root{color-scheme:light dark;--ink:#16202c;--soft:#5b6878;--line:#cfd6de;--page:#f6f7f9;
--card:#fff;--accent:#1f6fd6;--warm:#b45309;--wash:#eaf2fd;--gold:#fff6e0}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa7b6;--line:#3c4755;--page:#11161d;
--card:#1a212b;--accent:#6ea8fe;--warm:#f0b35a;--wash:#1d2c44;--gold:#33290f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);overflow-wrap:anywhere;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:32px;line-height:1.15;margin:0 0 6px;letter-spacing:-.02em}
h2{font-size:22px;margin:44px 0 6px;letter-spacing:-.01em}h3{font-size:16px;margin:0 0 2px}
p{margin:0 0 12px;max-width:76ch}.soft,figcaption{color:var(--soft);font-size:14px}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr))}
.cards{grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr))}
.grid+.soft{margin-top:10px}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px;
margin:0;min-width:0}
.wide{margin-top:12px}.grid>figure{max-width:640px;align-self:start}
.card b{display:block;font-size:30px;line-height:1.15;letter-spacing:-.02em;margin:6px 0 2px}
.card .pair{display:flex;gap:26px;flex-wrap:wrap}
.card small{color:var(--soft);font-size:13px}
.published{background:var(--gold)}.card.published{border-color:var(--warm)}
.tag{color:var(--warm);font-weight:600;font-size:13px}
svg{display:block;width:100%;height:auto;color:var(--ink)}
svg text{font-family:inherit!important}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:14px;background:var(--card);
border:1px solid var(--line);overflow-wrap:normal}
th,td{padding:8px 9px;text-align:left;vertical-align:top;min-width:7.5em;
border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);font-size:13px}td span{white-space:nowrap}
td:first-child{font-weight:600;min-width:9.5em}
.number{text-align:right;min-width:0;white-space:nowrap;font-variant-numeric:tabular-nums}
.lineage text{font-size:12.5px;text-anchor:middle;fill:var(--ink)}
.lineage .name{font-weight:600;font-size:13.5px}.lineage .how,.lineage .shape{fill:var(--soft)}
.lineage .score{font-weight:600}
.lineage rect{fill:var(--card);stroke:var(--soft);stroke-width:1.3}
.lineage .distil rect{fill:var(--wash);stroke:var(--accent)}
.lineage .one_step_prune rect{fill:var(--gold);stroke:var(--warm)}
.lineage .absent rect{stroke-dasharray:4 4}
.edge{fill:none;stroke:var(--soft);stroke-width:1.7}.head{fill:var(--soft)}
.edge.teacher{stroke:var(--accent);stroke-dasharray:5 4}.head.teacher{fill:var(--accent)}
.key{display:inline-block;width:26px;border-top:2px solid var(--soft);vertical-align:middle}
.key.teacher{border-top:2px dashed var(--accent)}
code{font-size:.9em;background:var(--wash);padding:1px 5px;border-radius:5px}
details{margin-top:12px}summary{cursor:pointer;color:var(--accent)}
@media(max-width:600px){main{padding:18px 12px 40px}h1{font-size:26px}h2{font-size:20px}
.card,figure{padding:12px 10px}}
"""
