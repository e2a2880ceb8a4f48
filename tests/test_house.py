"The house rules: package == notebooks, clean notebooks, style, reports through papermill, a wheel that works."
import json, os, shutil, subprocess, sys, tomllib
from pathlib import Path
from importlib.metadata import distributions
import nbformat, pytest
from nbdev.config import get_config
from nbdev.doclinks import nbdev_export
from packaging.specifiers import SpecifierSet

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

@pytest.mark.parametrize('nb', reports, ids=lambda p: p.stem)
def test_report_has_parameters(nb):
    "One `parameters` cell, no directives (papermill would run them all), committed empty."
    cells = [c for c in nbformat.read(nb, 4).cells if c.cell_type=='code']
    assert [c.metadata.get('tags') for c in cells].count(['parameters'])==1
    assert not any('#|' in c.source or c.outputs for c in cells)

def every(at, **env): # all reports of a project, at smoke size: exit code, what was said
    exe = Path(sys.executable).with_name('pansharp-nb')
    p = subprocess.run([exe, 'all', '-c2', '-k', '--profile', 'smoke'], cwd=at, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | {'IN_TEST': ''} | env)
    return p.returncode, p.stdout+p.stderr

@pytest.fixture(scope='module')
def smoke():
    shutil.rmtree(root/'reports'/'smoke', ignore_errors=True)
    return every(root)

@pytest.mark.parametrize('nb', reports, ids=lambda p: p.stem)
def test_report(nb, smoke):
    "`pansharp-nb all` made it, with its outputs where they belong."
    dst = root/'reports'/'smoke'/nb.parent.name
    for ext in ('ipynb', 'csv', 'md', 'tex', 'html', 'json'):
        f = dst/f'{nb.stem}.{ext}'
        assert f.exists() and f.stat().st_size, smoke[1][-3000:]
    assert json.loads((dst/f'{nb.stem}.json').read_text('utf-8'))['profile']=='smoke'

def test_nothing_is_made_twice(smoke):
    code,said = every(root)
    assert code==0 and 'Nothing to be done' in said, said[-3000:]

def test_a_failure_is_kept_and_named(tmp_path):
    "One report breaks: the other is made, the broken one is named, its notebook lies in the logs."
    for d in ('nbs/tables', 'nbs/figures', 'reports'): (tmp_path/d).mkdir(parents=True)
    shutil.copy(root/'settings.ini', tmp_path)
    shutil.copy(root/'nbs'/'Snakefile', tmp_path/'nbs')
    (tmp_path/'pansharp_nb').symlink_to(root/'pansharp_nb')
    for n,line in (('good', '1+1'), ('bad', '1/0')):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("profile = 'auto'", metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(line)], metadata=dict(kernelspec=dict(name='python3', language='python', display_name='python3')))
        nbformat.write(nb, tmp_path/'nbs'/'tables'/f'{n}.ipynb')
    code,said = every(tmp_path)
    made = tmp_path/'reports'/'smoke'/'tables'
    assert code==1 and 'bad.ipynb' in said and 'what failed is named above' in said
    assert (made/'good.ipynb').exists() and not (made/'bad.ipynb').exists()
    assert 'ZeroDivisionError' in (tmp_path/'reports'/'logs'/'tables-bad.ipynb').read_text('utf-8')
    locks = tmp_path/'.snakemake'/'locks'
    locks.mkdir(exist_ok=True)
    (locks/'0.output.lock').write_text('reports/smoke/tables/bad.ipynb\n', 'utf-8') # as `kill -9` leaves it
    code,said = every(tmp_path)
    assert code==1 and 'pansharp-nb all --unlock, then again' in said

def test_reports_name_no_machine():
    "What is committed under reports says nothing of where it was made."
    said = {p.name: t for p in (root/'reports').rglob('*.*') if not {'smoke', 'site', 'logs'} & set(p.parts) and p.suffix!='.jpg' for t in [p.read_text('utf-8')]}
    assert said and not [n for n,t in said.items() for w in ('site-packages', str(Path.home())+os.sep, str(root)) if w in t]

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
    assert len(here)>100 and not [f'{d.name} {d.version} {d.metadata["Requires-Python"]}' for d in here if f'{oldest}.0' not in SpecifierSet(d.metadata['Requires-Python'] or '')]

def test_wheel_in_a_clean_venv(tmp_path):
    "Built, installed with nothing else, imported and called far from the clone: every dependency is declared."
    run(sys.executable, '-m', 'build', '--wheel', '--no-isolation', '-o', tmp_path/'dist', root)
    wheel, = (tmp_path/'dist').glob('*.whl')
    run(sys.executable, '-m', 'venv', tmp_path/'venv')
    py = tmp_path/'venv'/'bin'/'python'
    run(py, '-m', 'pip', 'install', '-q', '--no-compile', '-c', root/'constraints.txt', wheel)
    methods = json.loads(run(py.with_name('pansharp-nb'), 'methods', '--json', cwd=tmp_path, env={'PANSHARP_NB_DATA': ''}))
    assert {'EXP', 'GSA', 'MTF-GLP-HPM-R'} <= {m['name'] for m in methods}
    assert {'PreMix-B', 'PreMix-H', 'MFMIF-Net', 'DCFNet', 'SIDP', 'SUM-DUN'} <= {m['name'] for m in methods if m['weights']}
