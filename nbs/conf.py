"Sphinx site of the notebooks: `make site`."
import json, re, shutil, subprocess, sys, tempfile, tomllib
from html import unescape
from pathlib import Path

root = Path(__file__).parents[1]
facts = tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['project']
project = 'pansharp_nb'
author = copyright = ', '.join(a['name'] for a in facts['authors'])
repository = facts.get('urls', {}).get('Repository', '') # the one place for the address; empty: no links to it
sys.path.insert(0, str(Path(__file__).parent)) # apipages.py: the API reference
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design', 'apipages']
html_theme = 'sphinx_book_theme'
html_title = 'pansharp_nb'
html_favicon = 'favicon.svg'
html_context = dict(default_mode='auto')
html_theme_options = dict(use_repository_button=True, repository_url=repository) if repository else {}
html_sidebars = {'**': ['navbar-logo.html', 'icon-links.html', 'sbt-sidebar-nav.html']} # the search box is in the header
root_doc = 'index'
nb_execution_mode = 'off'
nb_output_stderr = 'remove' # progress bars and warnings of the run
nb_render_markdown_format = 'myst' # a page's computed sentences may link to other pages
myst_enable_extensions = ['dollarmath', 'colon_fence']
myst_heading_anchors = 3
myst_dmath_double_inline = True # an equation may follow its sentence without an empty line
exclude_patterns = ['**.ipynb_checkpoints', 'Snakefile']

static = Path(tempfile.mkdtemp())
html_static_path,html_css_files = [str(static)],['wide.css']
(static/'wide.css').write_text("""
.bd-main .bd-content .bd-article-container {max-width: 54em}
.bd-sidebar-primary {flex-basis: 15rem} .bd-sidebar-secondary {flex-basis: 13rem}
div.highlight pre {font-size: .76rem} .output img {max-width: 100%}
div.highlight pre {white-space: pre-wrap; overflow-wrap: anywhere}
.cell_output div.highlight pre, .cell_output pre {white-space: pre; overflow-x: auto}
div.math {overflow-x: auto; overflow-y: hidden}
@media (min-width: 700px) {div.math mjx-container > svg {max-width: 100%; height: auto}}
html[data-theme=dark] .cell_output img {background: #fff; padding: .3rem; border-radius: .3rem}
.sd-card {height: 100%}
dl.py dd p, dl.py dt, dl.py dt :is(em, span) {overflow-wrap: anywhere; white-space: normal} dl.py dt .headerlink {position: static; margin: 0}
article :is(.lead, .small, figcaption, figcaption p) {opacity: 1; color: var(--pst-color-text-base)}
h1, .prev-next-info p {overflow-wrap: anywhere} .prev-next-info {min-width: 0}
.board thead th {white-space: normal; max-width: 5.6em; min-width: 3em}
.indextable td {overflow-wrap: anywhere; display: block; width: auto}
.cell_output table.dataframe {font-size: .86rem}
.cell_output table.dataframe :is(th, td) {padding: .15em .55em}
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

reports = root/'reports'

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

colab = 'https://colab.research.google.com/github/'

def _colab(app, docname, source):
    "A page whose first cell installs the package can be opened in Colab, once the address of the repository is known."
    if not repository.startswith('https://github.com/') or "find_spec('pansharp_nb')" not in source[0]: return
    nb,at = json.loads(source[0]),repository.removeprefix('https://github.com/').strip('/')
    link = f'[Open in Colab]({colab}{at}/blob/main/nbs/{docname}.ipynb)'
    nb['cells'].insert(1, dict(cell_type='markdown', id='colab', metadata={}, source=[link]))
    source[0] = json.dumps(nb)

def setup(app):
    app.connect('source-read', _colab, priority=300)
    app.connect('source-read', _executed, priority=400)
    app.connect('source-read', _clean)
