"Sphinx site of the notebooks: `make site`."
import json, re, shutil, subprocess, tempfile
from html import unescape
from pathlib import Path

project = 'pansharp_nb'
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design']
html_theme = 'sphinx_book_theme'
html_title = 'pansharp_nb'
root_doc = 'index'
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 3
myst_dmath_double_inline = True # an equation may follow its sentence without an empty line
exclude_patterns = ['**.ipynb_checkpoints']

static = Path(tempfile.mkdtemp())
html_static_path,html_css_files = [str(static)],['wide.css']
(static/'wide.css').write_text("""
.bd-main .bd-content .bd-article-container {max-width: 54em}
.bd-sidebar-primary {flex-basis: 15rem} .bd-sidebar-secondary {flex-basis: 13rem}
div.highlight pre {font-size: .76rem} .output img {max-width: 100%}
""", 'utf-8')

def _mathjax():
    "MathJax from npm, so that the site needs no network; without npm the usual CDN."
    if not shutil.which('npm'): return {}
    with tempfile.TemporaryDirectory() as d:
        p = subprocess.run(['npm', 'pack', '--silent', 'mathjax@3'], cwd=d, capture_output=True, text=True)
        if p.returncode: return {}
        shutil.unpack_archive(f'{d}/{p.stdout.strip()}', d, 'gztar')
        shutil.copy(f'{d}/package/es5/tex-svg-full.js', static)
    return dict(mathjax_path='tex-svg-full.js')
globals().update(_mathjax())

reports = Path(__file__).parents[1]/'reports'

def _report(html, kind):
    "The body of a report as notebook cells: what it shows stand-alone, with headings that the site knows."
    style = re.findall(r'<style>(.*?)</style>', html, re.S)[1]
    main = re.search(r'<main>(.*)</main>', html, re.S)[1]
    main = re.sub(r'\.\./\.\./nbs/(\w+)/(\w+)\.ipynb', r'../\1/\2.html', main)
    first,*rest = re.split(r'<h2>(.*?)</h2>', main)
    def cell(s): return dict(cell_type='markdown', metadata={}, source=s)
    def raw(s): return cell(f'````{{raw}} html\n{s.strip()}\n````')
    out = [raw(f'<style>{style}</style>{first}')]
    for title,body in zip(rest[::2], rest[1::2]): out += [cell(f'## {unescape(title)}'), raw(body)]
    return [*out, raw(html[html.rindex('<script>'):].replace('</html>', ''))]

def _executed(app, docname, source):
    "A report's notebook is committed empty: show the report of its last run, and its code folded below."
    kind,_,name = docname.rpartition('/')
    page,about = (reports/kind/f'{name}.{e}' for e in ('html', 'json'))
    if kind not in ('tables', 'figures') or not page.exists() or not about.exists(): return
    d,p = json.loads(source[0]),json.loads(about.read_text('utf-8'))
    first = next(i for i,c in enumerate(d['cells']) if c['cell_type']=='code')
    for c in d['cells'][first:]:
        if c['cell_type']=='code': c['metadata']['tags'] = ['hide-input']
    commit = (p['commit'] or 'unknown')[:8]
    run = f"\n\nProfile {p['profile']}, {p.get('device', 'cpu')}, commit `{commit}`, {p['date']}."
    if (of := p.get('scores_of')): run += f" The scores are those of commit `{of['commit'][:8]}`, {of['date']}."
    made = dict(cell_type='markdown', metadata={}, source=f'## How it was made{run}')
    d['cells'][first:first] = [*_report(page.read_text('utf-8'), kind), made]
    for i,c in enumerate(d['cells']): c['id'] = f'c{i}'
    source[0] = json.dumps(d)

def _clean(app, docname, source):
    "Drop `#| hide` cells, the source of `#| echo: false` cells and every `#|` line, as nbdev's own docs do."
    if not source[0].lstrip().startswith('{'): return
    nb = json.loads(source[0])
    def lines(c): return c['source'] if isinstance(c['source'], list) else c['source'].splitlines(True)
    def keep(c): return not any(l.strip() in ('#| hide', '#|hide') or l.startswith('#| default_exp') for l in lines(c))
    nb['cells'] = [c for c in nb['cells'] if keep(c)]
    for c in nb['cells']:
        if any(l.startswith('#| echo: false') for l in lines(c)): c['metadata']['tags'] = ['remove-input']
    for c in nb['cells']: c['source'] = [l for l in lines(c) if not l.startswith(('#|', '# chkstyle'))]
    source[0] = json.dumps(nb)

def setup(app):
    app.connect('source-read', _executed, priority=400)
    app.connect('source-read', _clean)
