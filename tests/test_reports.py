"Every table and figure, at smoke size: `pansharp-nb all` makes them through Snakemake and papermill, and makes nothing twice."
import json, os, re, shlex, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import nbformat, pandas as pd, pytest
from pansharp_nb.papers import ablations

root = Path(__file__).parents[1]
reports = [p for k in ('figures', 'tables') for p in sorted((root/'nbs'/k).glob('*.ipynb'))]

@pytest.mark.parametrize('nb', reports, ids=lambda p: p.stem)
def test_report_has_parameters(nb):
    "One `parameters` cell, no directives (papermill would run them all), committed empty."
    cells = [c for c in nbformat.read(nb, 4).cells if c.cell_type=='code']
    assert [c.metadata.get('tags') for c in cells].count(['parameters'])==1
    assert not any('#|' in c.source or c.outputs for c in cells)

def every(at, *args, profile='smoke', **env): # all reports of a project: exit code, what was said
    exe = Path(sys.executable).with_name('pansharp-nb')
    plan = [exe, 'all', '-c2', '-k', '--profile', profile, *args]
    p = subprocess.run(plan, cwd=at, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | {'IN_TEST': ''} | env)
    return p.returncode, p.stdout+p.stderr

@pytest.fixture(scope='module')
def warm():
    "A command that does what papermill does, in a fork of a process that has imported what the reports import."
    py,at = Path(__file__).with_name('warm.py'),Path(tempfile.mkdtemp())/'s'
    p = subprocess.Popen([sys.executable, py, at], cwd=root, stdin=subprocess.DEVNULL, env=os.environ | {'IN_TEST': '', 'OMP_NUM_THREADS': '1'})
    while not at.exists() and p.poll() is None: time.sleep(.05)
    yield shlex.join(map(str, [sys.executable, '-SE', py, at]))
    p.terminate()
    p.wait()
    shutil.rmtree(at.parent)

@pytest.fixture(scope='module')
def smoke(warm):
    shutil.rmtree(root/'reports'/'smoke', ignore_errors=True)
    return every(root, PAPERMILL=warm)

def made(nb, ext='ipynb'): return root/'reports'/'smoke'/nb.parent.name/f'{nb.stem}.{ext}'

@pytest.mark.parametrize('nb', reports, ids=lambda p: p.stem)
def test_report(nb, smoke):
    "`pansharp-nb all` made it, with its outputs where they belong."
    for ext in ('ipynb', 'csv', 'md', 'tex', 'html', 'json'):
        assert made(nb, ext).exists() and made(nb, ext).stat().st_size, smoke[1][-3000:]
    assert json.loads(made(nb, 'json').read_text('utf-8'))['profile']=='smoke'
    cells = nbformat.read(made(nb), 4).cells
    assert all(c.execution_count for c in cells if c.cell_type=='code' and c.source) and any(c.get('outputs') for c in cells)

def test_nothing_is_made_twice(smoke):
    code,said = every(root)
    assert code==0 and 'Nothing to be done' in said, said[-3000:]

def test_a_kernel_of_its_own_says_the_same(smoke):
    "A board, a comparison and a figure are gone: only they are made again, each by papermill in a fresh kernel, to the same numbers."
    gone = [root/'nbs'/f'{n}.ipynb' for n in ('tables/table1', 'tables/sidp_table2', 'figures/premix_fig19')]
    was = {nb: pd.read_csv(made(nb, 'csv')) for nb in gone}
    for nb in gone:
        for ext in ('ipynb', 'csv'): made(nb, ext).unlink()
    code,said = every(root)
    assert code==0 and set(re.findall(r'output: reports/smoke/(\S+)', said))=={f'{nb.parent.name}/{nb.name}' for nb in gone}, said[-3000:]
    for nb in gone:
        pd.testing.assert_frame_equal(pd.read_csv(made(nb, 'csv')), was[nb])
        assert any(o.output_type=='execute_result' for c in nbformat.read(made(nb), 4).cells for o in c.get('outputs', []))

@pytest.fixture
def project(tmp_path):
    "An empty one, and what writes a report into it."
    for d in ('nbs/tables', 'nbs/figures', 'reports'): (tmp_path/d).mkdir(parents=True)
    shutil.copy(root/'settings.ini', tmp_path)
    shutil.copy(root/'nbs'/'Snakefile', tmp_path/'nbs')
    for d in ('pansharp_nb', 'data'): (tmp_path/d).symlink_to(root/d)
    return tmp_path

def test_a_failure_is_kept_and_named(project):
    "One report breaks: the other is made, the broken one is named, its notebook lies in the logs."
    for n,line in (('good', '1+1'), ('bad', '1/0')):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("profile = 'auto'", metadata=dict(tags=['parameters'])), nbformat.v4.new_code_cell(line)], metadata=dict(kernelspec=dict(name='python3', language='python', display_name='python3')))
        nbformat.write(nb, project/'nbs'/'tables'/f'{n}.ipynb')
    code,said = every(project)
    at = project/'reports'/'smoke'/'tables'
    assert code==1 and 'bad.ipynb' in said and 'what failed is named above' in said
    assert (at/'good.ipynb').exists() and not (at/'bad.ipynb').exists()
    assert 'ZeroDivisionError' in (project/'reports'/'logs'/'tables-bad.ipynb').read_text('utf-8')
    locks = project/'.snakemake'/'locks'
    locks.mkdir(exist_ok=True)
    (locks/'0.output.lock').write_text('reports/smoke/tables/bad.ipynb\n', 'utf-8') # as `kill -9` leaves it: in nobody's way
    code,said = every(project)
    assert code==1 and 'what failed is named above' in said and re.findall(r'output: reports/smoke/(\S+)', said)[0]=='tables/bad.ipynb' and 'good.ipynb' not in said

def test_who_reads_whom(project):
    "Beyond smoke size: a study is trained before its page, the scores of the boards come before what is compared with them, the scorecard reads both."
    for k in ('tables', 'figures'): shutil.copytree(root/'nbs'/k, project/'nbs'/k, dirs_exist_ok=True)
    boards,study = {'reports/boards/classical.csv.gz', 'reports/boards/built/FusionNet.csv.gz'},'runs/ablations/quick-premix_table4.done'
    (project/'reports'/'boards'/'built').mkdir(parents=True)
    for b in boards: (project/b).touch()
    code,said = every(project, '-n', profile='quick')
    reads = {out: set((files or '').split(', ')) for files,out in re.findall(r'^rule \w+:\n(?:    input: (.*)\n)?    output: (\S+)', said, re.M)}
    pages,studies = ({k for k in reads if k.startswith(d)} for d in ('reports/', 'runs/ablations/quick-'))
    assert code==0 and len(pages)==len(reports) and {Path(t).stem.removeprefix('quick-') for t in studies}==set(ablations.studies), said[-3000:]
    assert not any(reads[f'reports/tables/{b}.ipynb'] & (pages | studies) for b in ('table1', 'table2')) and not any(reads[t]-{''} for t in studies)
    assert reads['reports/tables/sidp_table2.ipynb'] & (pages | studies | boards)==boards
    assert reads['reports/tables/premix_table4.ipynb'] & (pages | studies)=={study}
    assert reads['reports/tables/scorecard.ipynb']>={*boards, 'reports/tables/premix_table4.ipynb', 'reports/figures/premix_fig17.ipynb'}
