"Every benchmark runs, at smoke size: rows, not goals. What a row says, and when."
import importlib, sys
import pytest, torch
from pathlib import Path

@pytest.fixture
def bench(monkeypatch, one_thread):
    "One of the scripts as a module."
    monkeypatch.syspath_prepend(Path(__file__).parents[1]/'benchmarks')
    names = [p.stem for p in (Path(__file__).parents[1]/'benchmarks').glob('*.py')]
    for n in names: monkeypatch.delitem(sys.modules, n, raising=False)
    yield importlib.import_module
    for n in names: sys.modules.pop(n, None)

def rows(capsys): # names of the printed table
    return [l for l in capsys.readouterr().out.splitlines() if l.strip()]

def test_all_of_make_bench_are_here():
    root = Path(__file__).parents[1]
    recipe = next(l for l in (root/'Makefile').read_text('utf-8').splitlines() if 'benchmarks/' in l)
    assert set(recipe.split(' in ')[1].split(';')[0].split()) == {p.stem for p in (root/'benchmarks').glob('*.py')}-{'race', 'rehearsal'} # whole trainings, for the page that shows them

def test_machine(bench, capsys):
    assert bench('race').main(32, 1)==0
    assert 'GFLOP/s' in capsys.readouterr().out

def test_classical(bench, capsys):
    bench('classical').main(1, 64)
    said = '\n'.join(rows(capsys))
    assert all(n in said for n in ('interp23', 'Brovey', 'GSA', 'MTF-GLP-HPM'))

def test_metrics(bench, capsys):
    bench('metrics').main(64, 1)
    said = '\n'.join(rows(capsys))
    names = 'Q4', 'Q8', 'D_lambda_K', 'D_lambda, sliding', 'D_s, sliding', 'SSIM', 'all 17 columns'
    assert all(f'{n}, float{b}' in said for n in names for b in (32, 64))

def test_filtering(bench, capsys):
    f = bench('filtering')
    f.main(1, '', (16, 32), ())
    said = '\n'.join(rows(capsys))
    assert all(f'{n}, K {K}' in said for n in ('forward, 16 px', 'forward + backward, 32 px') for K in (3, 5, 7, 9, 11))
    assert all(f'module, 32 px, K {K}{w}' in said for K in (3, 5) for w in ('', ', beside a busy process'))

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
@pytest.mark.parametrize('what', ['forward', 'both', 'module'])
def test_memory_of_one_call(what, bench, capsys):
    for which in ('unfold', 'ours'):
        bench('filtering').call(what, which, 32, 3)
        assert abs(float(capsys.readouterr().out))<1000

@pytest.mark.parametrize('half', [True, False])
def test_training(half, bench, capsys, monkeypatch):
    "All five papers' networks and two more, whatever the processor."
    f = bench('training')
    monkeypatch.setattr(f, 'native', lambda: half)
    f.main(*(() if half else ('FusionNet',)), rounds=1, n=64, batch=1, patch=16)
    said = '\n'.join(rows(capsys))
    assert all(n in said for n in ([*f.five, 'FusionNet', 'PanNet'] if half else ['FusionNet', '16 bits are skipped']))
    assert half==('bf16_per_s' in said)

def test_differing_values_stop_a_race(bench):
    f,x = bench('race').race,torch.ones(3)
    with pytest.raises(AssertionError, match='twice: the two differ by 1.0e'): f('twice', lambda: x, lambda: 2*x, 1e-3, 1, 1)

def test_what_a_goal_says(bench, capsys):
    r = bench('race')
    nan = float('nan')
    cases = ((3, 2), 'met'), ((1, 2), 'missed'), ((1, 2, 1.), 'shared'), ((1, 2, .1), 'missed'), ((3, 2, 2.), 'met'), ((1, nan), ''), ((nan, 2), '')
    for a,said in cases: assert r.verdict(*a)==said
    for said,code in (('met', 0), ('shared', 0), ('missed', 1)):
        assert r.show([dict(name='a', ratio=1.5, goal=2., gap=1e-9, said=said)], 'x')==code
    assert '1e-09' in capsys.readouterr().out

def test_a_slow_peer_is_seen(bench):
    "The ratio is the peer's time over ours."
    r = bench('race')
    def slow():
        for _ in range(20): torch.ones(300, 300) @ torch.ones(300, 300)
        return 1
    row = r.race('slow', slow, lambda: 1, 0, 2, 3)
    assert row['ratio']>2 and row['said']=='met' and row['peer_ms']>row['ours_ms']
