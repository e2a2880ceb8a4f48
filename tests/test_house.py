"The house rules: package == notebooks, clean notebooks, style, a wheel that works."
import json, os, shutil, subprocess, sys, tomllib
from pathlib import Path
from importlib.metadata import distributions
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbdev_export
from packaging.specifiers import SpecifierSet

root = Path(__file__).parents[1]
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

def run(*args, **kw):
    env = os.environ | {'PATH': f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | kw.pop('env', {})
    p = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, **kw)
    assert p.returncode==0, f"{' '.join(map(str, args))}\n{p.stdout[-4000:]}\n{p.stderr[-4000:]}"
    return p.stdout

def test_package_equals_notebooks(tmp_path, monkeypatch):
    "nbdev-export into an empty copy gives the committed package: no hand edits, nothing missing, nothing left over."
    for o in ('nbs', 'pyproject.toml', 'README.md'): (shutil.copytree if (root/o).is_dir() else shutil.copy)(root/o, tmp_path/o)
    lib = get_config(root).lib_path.name
    (tmp_path/lib).mkdir()
    shutil.copy(root/lib/'__init__.py', tmp_path/lib)
    monkeypatch.chdir(tmp_path)
    nbdev_export.__wrapped__()
    new,old = ({p.relative_to(d).as_posix(): p.read_text('utf-8') for p in (d/lib).rglob('*.py')} for d in (tmp_path, root))
    assert sorted(new)==sorted(old)
    assert [n for n in new if new[n]!=old[n]]==[]

def test_notebooks_are_clean(tmp_path):
    "`nbdev-clean` would change nothing."
    for o in ('nbs', 'pyproject.toml'): (shutil.copytree if (root/o).is_dir() else shutil.copy)(root/o, tmp_path/o)
    (tmp_path/'pansharp_nb').mkdir()
    run('nbdev-clean', cwd=tmp_path)
    assert [str(p) for p in notebooks if (tmp_path/p.relative_to(root)).read_bytes()!=p.read_bytes()]==[]

def test_style(): run('chkstyle', 'nbs', cwd=root)

def test_ruff(): run('ruff', 'check', '.', cwd=root)

def test_reports_name_no_machine():
    "What is committed says nothing of where it was made: reports, and the outputs of pages."
    def words(p): # of a page the outputs alone: its source may speak of folders
        if p.suffix!='.ipynb': return p.read_text('utf-8')
        return json.dumps([c.get('outputs') for c in json.loads(p.read_text('utf-8'))['cells']])
    files = [p for p in (*(root/'reports').rglob('*.*'), *(root/'nbs').rglob('*.ipynb')) if not {'smoke', 'site', 'logs'} & set(p.parts) and p.suffix not in ('.jpg', '.gz')]
    places = 'site-packages', 'ipykernel_', str(Path.home())+os.sep, str(root), *filter(None, [os.environ.get('PANSHARP_NB_DATA')]), 'shared/scenes/'
    assert len(files)>100 and not [(p.name, w) for p in files for w in places if w in words(p)]

def test_settings_hold_no_build_keys():
    "settings.ini is the companion's own: nothing of nbdev's or pip's hides there."
    text = (root/'settings.ini').read_text('utf-8')
    keys = {l.split('=')[0].strip() for l in text.splitlines() if '=' in l and not l.startswith('#')}
    assert not keys & {'lib_name', 'lib_path', 'nbs_path', 'requirements', 'version', 'min_python', 'tst_flags'}

def test_pins_run_on_the_oldest_python():
    "No pinned package wants a newer Python than pyproject promises, down to the last digit (Debian 12 has 3.11.2)."
    oldest = tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['project']['requires-python'].removeprefix('>=')
    pinned = {l.split('==')[0].lower().replace('_', '-') for l in (root/'constraints.txt').read_text('utf-8').splitlines() if '==' in l}
    here = [d for d in distributions() if d.name.lower().replace('_', '-') in pinned]
    assert len(here)>100 and not [f'{d.name} {d.version} {d.metadata.get("Requires-Python")}' for d in here if f'{oldest}.0' not in SpecifierSet(d.metadata.get('Requires-Python') or '')]

def build(at): # from a copy: no `build` folder beside the clone, whose leftovers would go into the next wheel
    (at/'src').mkdir()
    for o in ('pansharp_nb', 'pyproject.toml', 'README.md', 'LICENSE', 'NOTICE'): (shutil.copytree if (root/o).is_dir() else shutil.copy)(root/o, at/'src'/o)
    run(sys.executable, '-m', 'build', '--wheel', '--no-isolation', '-o', at/'dist', at/'src')
    wheel, = (at/'dist').glob('*.whl')
    return wheel

def complete(said):
    methods = json.loads(said)
    assert {'EXP', 'GSA', 'MTF-GLP-HPM-R'} <= {m['name'] for m in methods}
    assert {'PreMix-B', 'PreMix-H', 'MFMIF-Net', 'DCFNet', 'SIDP', 'SUM-DUN'} <= {m['name'] for m in methods if m['weights']}

alone = """import sys, pkgutil
from importlib.metadata import requires
tests,site,extra = sys.argv[1:]
sys.path.insert(0, tests)
from closure import only
only([r.partition(';')[0] for r in requires('pansharp-nb') if 'extra ==' not in r or extra and extra in r]) # of the wheel
del sys.path[0]
import pansharp_nb
from pansharp_nb.cli import main
assert pansharp_nb.__file__.startswith(site), pansharp_nb.__file__
def every(): return [m.name for m in pkgutil.walk_packages(pansharp_nb.__path__, 'pansharp_nb.')]
"""

def test_wheel(tmp_path):
    "Built, installed with nothing else, called and imported far from the clone where only what its dependencies bring is found: all are declared."
    site = tmp_path/'site'
    run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-compile', '--no-index', '--target', site, build(tmp_path))
    def call(extra, code): return run(sys.executable, '-c', alone+code, root/'tests', site, extra, cwd=tmp_path, env={'PYTHONPATH': str(site), 'PANSHARP_NB_DATA': ''})
    complete(call('', "main(['methods', '--json'])\nfor m in every(): m.endswith('.training') or __import__(m)"))
    assert len(call('train', 'import pansharp_nb.training\nprint(*every())').split())>60
    assert call('', "from pansharp_nb.recipes import recipe\nprint(recipe('SUM-DUN', 'paper').bands)").strip()=='(4, 8)' # the file is there
    assert (site/'bin'/'pansharp-nb').exists() and {p.name for p in site.glob('*.dist-info/licenses/*')}=={'LICENSE', 'NOTICE'}

@pytest.mark.venv
def test_wheel_in_a_clean_venv(tmp_path):
    "The same by pip alone, every dependency fetched: a gigabyte and minutes."
    run(sys.executable, '-m', 'venv', tmp_path/'venv')
    py = tmp_path/'venv'/'bin'/'python'
    run(py, '-m', 'pip', 'install', '-q', '--no-compile', '-c', root/'constraints.txt', build(tmp_path))
    complete(run(py.with_name('pansharp-nb'), 'methods', '--json', cwd=tmp_path, env={'PANSHARP_NB_DATA': ''}))
