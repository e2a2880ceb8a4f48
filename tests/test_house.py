"The house rules: package == notebooks, clean notebooks, style, reports through papermill, a wheel that works."
import json, os, shutil, subprocess, sys
from pathlib import Path
import nbformat, pytest
from nbdev.config import get_config
from nbdev.doclinks import nbdev_export

root = Path(__file__).parents[1]
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
reports = [p for p in notebooks if p.parent.name in ('tables', 'figures')]

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
    new,old = ({p.relative_to(d).as_posix(): p.read_text() for p in (d/lib).rglob('*.py')} for d in (tmp_path, root))
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

@pytest.mark.parametrize('nb', reports, ids=lambda p: p.stem)
def test_report_has_parameters(nb):
    "One `parameters` cell, no directives (papermill would run them all), committed empty."
    cells = [c for c in nbformat.read(nb, 4).cells if c.cell_type=='code']
    assert [c.metadata.get('tags') for c in cells].count(['parameters'])==1
    assert not any('#|' in c.source or c.outputs for c in cells)

@pytest.mark.parametrize('nb', reports, ids=lambda p: p.stem)
def test_report_through_papermill(nb, tmp_path):
    "The line of the README, at smoke size, with its outputs where they belong."
    out = tmp_path/nb.name
    run('papermill', nb, out, '-k', 'python3', '-p', 'profile', 'smoke', cwd=root, env={'IN_TEST': ''})
    dst = root/'reports'/'smoke'/nb.parent.name
    for ext in ('csv', 'md', 'tex', 'html', 'json'): assert (dst/f'{nb.stem}.{ext}').stat().st_size
    assert json.loads((dst/f'{nb.stem}.json').read_text())['profile']=='smoke'

def test_reports_name_no_machine():
    "What is committed under reports says nothing of where it was made."
    said = {p.name: t for p in (root/'reports').rglob('*.*') if 'smoke' not in p.parts and 'site' not in p.parts and p.suffix!='.jpg' for t in [p.read_text()]}
    assert said and not [n for n,t in said.items() for w in ('site-packages', str(Path.home())+os.sep, str(root)) if w in t]

def test_settings_hold_no_build_keys():
    "settings.ini is the companion's own: nothing of nbdev's or pip's hides there."
    text = (root/'settings.ini').read_text()
    keys = {l.split('=')[0].strip() for l in text.splitlines() if '=' in l and not l.startswith('#')}
    assert not keys & {'lib_name', 'lib_path', 'nbs_path', 'requirements', 'version', 'min_python', 'tst_flags'}

def test_wheel_in_a_clean_venv(tmp_path):
    "Built, installed with nothing else, imported and called far from the clone: every dependency is declared."
    run(sys.executable, '-m', 'build', '--wheel', '--no-isolation', '-o', tmp_path/'dist', root)
    wheel, = (tmp_path/'dist').glob('*.whl')
    run(sys.executable, '-m', 'venv', tmp_path/'venv')
    py = tmp_path/'venv'/'bin'/'python'
    run(py, '-m', 'pip', 'install', '-q', '-c', root/'constraints.txt', wheel)
    methods = json.loads(run(py.with_name('pansharp-nb'), 'methods', '--json', cwd=tmp_path, env={'PANSHARP_NB_DATA': ''}))
    assert {'EXP', 'GSA', 'MTF-GLP-HPM-R'} <= {m['name'] for m in methods}
    assert {'PreMix-B', 'PreMix-H', 'MFMIF-Net', 'DCFNet', 'SIDP', 'SUM-DUN'} <= {m['name'] for m in methods if m['weights']}
