"Sphinx site of the notebooks: `make site`."
import json, shutil, subprocess, tempfile
from pathlib import Path

project = 'pansharp_nb'
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design']
html_theme = 'sphinx_book_theme'
html_title = 'pansharp_nb'
root_doc = 'index'
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'colon_fence']
exclude_patterns = ['**.ipynb_checkpoints']

def _mathjax():
    "MathJax from npm, so that the site needs no network; without npm the usual CDN."
    static = Path(tempfile.mkdtemp())
    if not shutil.which('npm'): return {}
    p = subprocess.run(['npm', 'pack', '--silent', 'mathjax@3'], cwd=static, capture_output=True, text=True)
    if p.returncode: return {}
    shutil.unpack_archive(static/p.stdout.strip(), static/'npm', 'gztar')
    (static/'site').mkdir()
    shutil.copy(static/'npm'/'package'/'es5'/'tex-svg-full.js', static/'site')
    return dict(html_static_path=[str(static/'site')], mathjax_path='tex-svg-full.js')
globals().update(_mathjax())

def _clean(app, docname, source):
    "Drop `#| hide` cells and every `#|` line, as nbdev's own docs do."
    if not source[0].lstrip().startswith('{'): return
    nb = json.loads(source[0])
    def lines(c): return c['source'] if isinstance(c['source'], list) else c['source'].splitlines(True)
    def keep(c): return not any(l.strip() in ('#| hide', '#|hide') or l.startswith('#| default_exp') for l in lines(c))
    nb['cells'] = [c for c in nb['cells'] if keep(c)]
    for c in nb['cells']: c['source'] = [l for l in lines(c) if not l.startswith(('#|', '# chkstyle'))]
    source[0] = json.dumps(nb)

def setup(app): app.connect('source-read', _clean)
