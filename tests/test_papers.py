"The papers' numbers, their claims, and the studies that answer them: checks that need no image, and trainings of two steps."
import json, re
from dataclasses import asdict
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from pansharp_nb import scoring, settings
from pansharp_nb.data.registration import offset
from pansharp_nb.data.scenes import open_scene, to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models import networks
from pansharp_nb.models.networks import build
from pansharp_nb.papers import ablations, boards, claims, comparison, effects
from pansharp_nb.papers.reported import agreement, paper_and_ours, board, reported
from pansharp_nb.recipes import recipe

root = Path(__file__).parents[1]
seeds = root.parent/'shared'/'seeds'

def plain(t): return re.sub(r'[^a-z0-9.]+', '', re.sub(r'<\/?\w+>', '', t).lower())

@pytest.fixture(scope='module')
def texts():
    if not seeds.is_dir(): pytest.skip('the papers\' texts are not here')
    return ' '.join(p.read_text('utf-8') for p in sorted(seeds.glob('*.txt')))

# rows x columns of each printed table: methods or variants, metrics
sizes = {('PreMix', '1', s): (15, 4) for s in ('GF1', 'WV2', 'IKONOS')} | {('PreMix', '2', s): (15, 3) for s in ('GF1', 'WV2', 'IKONOS')}
sizes |= {('PreMix', t, 'GF1'): (n, 4) for t,n in (('4', 4), ('5', 4), ('6', 3))} | {('MFMIF-Net', '1', 'GF2'): (10, 6), ('MFMIF-Net', '2', 'GF2'): (10, 3)}
sizes |= {('SIDP', t, s): (12, 7) for t,s in (('2', 'WV2'), ('3', 'GF1'), ('4', 'WV3'))} | {('SIDP', t, 'WV2'): n for t,n in (('5', (25, 2)), ('6', (9, 3)), ('7', (5, 3)))}
sizes |= {('SUM-DUN', t, s): (4, 1) for t in ('4', '5') for s in ('GF1', 'QB', 'WV2', 'WV4')} | {('SUM-DUN', t, s): (8, 9) for t,s in (('2', 'GF1'), ('3', 'WV2'))}
sizes |= {('DCFNet', '1', 'WV3'): (7, 4), ('DCFNet', '3', 'WV3'): (7, 3), ('DCFNet', '4', 'GF2'): (6, 4), ('DCFNet', '4', 'QB'): (6, 4), ('DCFNet', '5', 'WV2'): (12, 4)}

@pytest.mark.parametrize('where', sizes, ids=lambda w: '-'.join(w))
def test_tables_are_whole(where):
    "Each cell of a printed table once."
    d = reported(*where[:2], sensor=where[2])
    grid = d.assign(row=d.method+d.configuration, column=d.metric+d.resolution).groupby(['row', 'column']).size().unstack()
    assert grid.shape==sizes[where] and (grid==1).values.all()

def test_value_is_what_is_printed():
    "A value differs from its print only where the note says why."
    d = reported()
    d = d[~d.metric.isin(['MS bands', 'PAN bands'])].copy()
    d['bare'] = d.printed.str.replace(r'<[^>]+>|\\pm.*|±.*|[*↑↓\s$\\{}]|mathbf|%', '', regex=True)
    read = pd.to_numeric(d.bare, errors='coerce')
    other = d[(read!=d.value) & d.note.eq('')]
    assert not len(other), other[['paper', 'table', 'method', 'metric', 'printed', 'value']]

@pytest.mark.parametrize('paper', ['PreMix', 'MFMIF-Net', 'DCFNet', 'SIDP', 'SUM-DUN'])
def test_printed_numbers_are_in_the_text(paper, texts):
    "Every printed number stands in the papers' texts."
    words = set(re.findall(r'\d+\.\d+|\d+', texts))
    d = reported(paper)
    number = d.printed.str.extract(r'(\d+\.\d+|\d+)')[0].dropna()
    assert not set(number)-words

def test_qnr_is_the_product():
    "(1-D_lambda)(1-D_s), for means over images: within rounding and a little covariance; two rows are known not to be (the audit has them)."
    d = reported(resolution='full').query('method!="ideal"')
    q = d.pivot_table(index=['paper', 'table', 'sensor', 'method', 'configuration'], columns='metric', values='value').reset_index()
    gap = (q.QNR.fillna(q.HQNR)-(1-q.D_lambda)*(1-q.D_s)).abs()
    assert gap.notna().sum()>100 and gap.median()<.0005
    assert set(q.method[gap>.004])=={'FusionNet', 'PCA'}

def test_rmse_falls_as_psnr_rises():
    "MFMIF-Net prints both for the same images; its column RASE is RMSE (the audit)."
    t = board('MFMIF-Net', '1')
    x = next(c for c in t if c in ('RASE', 'RMSE'))
    assert t.PSNR.corr(t[x], method='spearman')<-.9

def test_claims_are_whole(texts):
    "Unique, quoted verbatim, about rows and metrics there are."
    cs = claims.claims()
    assert len({c['id'] for c in cs})==len(cs)>=40 and {c['paper'] for c in cs}==set(reported().paper)
    known = set(scoring.catalogue(count=False).name)
    text = plain(texts)
    for c in cs:
        assert not c['quote'] or plain(c['quote']) in text, c['id']
        t = c['test']
        kinds = [k for k in fields if k in t and (k!='untrained' or len(t)==1)]
        assert len(kinds)==1 and set(t)<=set(fields[kinds[0]].split()), c['id']
        named = {*([t['a']] if isinstance(t.get('a'), str) else t.get('a', ())), *t.get('over', ()), *t.get('gone', ())}
        if 'study' in t: assert named<=set(ablations.studies[t['study']].variants) | set(networks.absent), c['id']
        if 'board' in t: assert named<=known | set(networks.absent), c['id']
        assert 'print' not in t or c['holds']=='partly' and claims._printed_word(c['paper'], dict(printed=t['print']))[0]=='contradicted by the paper itself', f'{c["id"]}: the table does not say otherwise'
        assert all((root/o['shown']).exists() for o in (t, *t.get('as', {}).values()) if 'shown' in o), c['id']

fields = dict(board='board a over gone metrics sensors by within lead convention wald aside print', study='study a over gone metrics sensors within untrained aside print', count='count a knobs bands equals tolerance near factor less_than more_than as fitted',
    printed='printed aside', timed='timed a over', shown='shown as_said note', needs='needs', untrained='untrained')

def scores(**values): # method -> PSNR of each scene
    return pd.DataFrame([dict(method=m, scene=i, sensor='QB', metric='PSNR', value=v, seed=0) for m,vs in values.items() for i,v in enumerate(vs)])

ask = dict(board='truth', a='a', over=['b'], metrics=['PSNR'], sensors=['QB'])

@pytest.mark.parametrize('made, real, more, verdict', [(1, (), {}, 'confirmed'), (1, (1.,), {}, 'confirmed'), (1, (-1.,), {}, 'not told apart'), (1, (3., -1.), {}, 'not told apart'),
    (1, (0.,), {}, 'not told apart'), (-1, (-1.,), {}, 'contradicted here'), (-1, (1.,), {}, 'not told apart'), (2, (1.5,), dict(lead=1), 'confirmed'), (2, (.5,), dict(lead=1), 'not told apart'),
    (.1, (.1,), dict(within=.5), 'confirmed'), (.1, (5.,), dict(within=.5), 'not told apart')])
def test_real_images_have_a_veto(monkeypatch, made, real, more, verdict):
    "What made-up scenes say stands where no real image says otherwise: better, worse, by that much, or alike."
    base = [30, 31, 32, 33]
    up = scores(a=[v+made+.02*(i%2) for i,v in enumerate(base)], b=base).assign(weights='-')
    seen = scores(a=[30+v for v in real], b=[30.]*len(real)).assign(weights='-') if real else up[:0]
    monkeypatch.setattr(claims.boards, 'scores', lambda protocol, *_: dict(truth=up, reduced=seen)[protocol])
    found = claims.verdict_of(dict(id='X', paper='SIDP', says='', where='', holds='yes', test=ask | more))
    assert found['verdict']==verdict and ('of 1 difference that they show real images say otherwise in 1' in found['note'])==(verdict=='not told apart')
    assert ('real images' in found['note'])==bool(real)!=('no real image to check them by' in found['note'])

@pytest.mark.parametrize('gain, verdict', [(1, 'contradicted here'), (-1, 'not trained far enough')])
def test_interpolation_in_disguise_wins_nothing(monkeypatch, gain, verdict):
    "A network that learned from a truth, and is below interpolation where there is one, is not compared without one either."
    def of(metric, **values): return scores(**values).assign(weights='w', protocol='x', metric=metric)
    qnr = of('QNR', a=[.80, .81, .82, .83], b=[.90, .91, .92, .93], EXP=[.5]*4, GSA=[.6]*4)
    seen = of('PSNR', a=[32.]*4, b=[30.+gain]*4, EXP=[30.]*4, GSA=[31.]*4)
    monkeypatch.setattr(claims.boards, 'scores', lambda protocol, *_: dict(full=qnr, reduced=seen)[protocol])
    monkeypatch.setattr(claims, 'progress', lambda *_: dict.fromkeys('ab', [(1, 30.), (2, 30.8), (3, 31.)]))
    found = claims.verdict_of(dict(id='X', paper='SIDP', says='', where='', holds='yes', test=ask | dict(board='full', metrics=['QNR'])))
    assert found['verdict']==verdict and ('b is below EXP in PSNR against a truth' in found['note'])==(gain<0)

@pytest.mark.parametrize('images, stands', [(0, True), (2, True), (3, False)])
def test_made_up_scenes_stand_beside_few_images(images, stands):
    "Beside none, one or two real images of a satellite of the paper, and of no other."
    each = [dict(scene=f'QB{i}', protocol='reduced') for i in range(images)]+[dict(scene='made', protocol='truth')]
    d = pd.DataFrame([r | dict(sensor='QB', method='a', metric='PSNR', value=1.) for r in each])
    assert [('truth' in set(comparison._held(d, data).protocol)) for data in (['QB', 'GF2'], ['GF2'])]==[stands, False]

def test_kinds_are_judged_apart(monkeypatch):
    "A difference that cancels over two kinds of scenes is no likeness."
    d = pd.concat([scores(a=[30+v+.01*i for i in range(4)], b=[30.]*4).assign(weights='-', scene=[f'{n}{i}' for _ in 'ab' for i in range(4)]) for n,v in (('GF2rr_', 1), ('GF2_', -1))])
    monkeypatch.setattr(claims.boards, 'scores', lambda *_: d)
    c = dict(id='X', paper='SIDP', says='', where='', holds='yes', test=ask | dict(board='reduced', within=.5))
    assert [claims.verdict_of(c | dict(test=c['test'] | more))['verdict'] for more in ({}, dict(by='kind'))]==['not told apart', 'contradicted here']
    assert claims.verdict_of(c | dict(test=dict(untrained='why')))['verdict']=='not trained far enough'

@pytest.mark.parametrize('a, b, verdict', [((31, 32, 33, 34), (30, 31, 32, 33), 'confirmed'), ((30, 31, 32, 33), (31, 32, 33, 34), 'contradicted here'),
    ((31, 30, 31, 30), (30, 31, 30, 31), 'not told apart'), ((30, 31, 32), (30.01, 31.02, 31.98), 'alike')])
def test_verdicts(a, b, verdict):
    "An interval on one side of zero decides, a small one says alike; two scenes never do; less of an error is better."
    d = scores(a=a, b=b).assign(weights='-')
    assert claims.metric_word(claims.compared(d, 'a', ['b'], ['PSNR'])[0])==verdict
    turned = dict(confirmed='contradicted here').get(verdict) or {'contradicted here': 'confirmed'}.get(verdict)
    if turned: assert claims.metric_word(claims.compared(d.assign(metric='ERGAS'), 'a', ['b'], ['ERGAS'])[0])==turned
    assert claims.compared(d[d.scene<2], 'a', ['b'], ['PSNR'])[1]==['b']

def test_agreement_of_orders():
    "Our scores in the paper's order agree wholly, in reverse not at all."
    b = board('PreMix', '1', 'GF1')[['PSNR']]
    def ours(sign): return scores(**{m: [sign*v+i for i in range(4)] for m,v in b.PSNR.items()})
    for sign in (1, -1): assert agreement(b, ours(sign)).loc['PSNR', ['tau', 'low', 'high']].tolist()==[sign]*3
    t = paper_and_ours(b, ours(1))
    assert (t.PSNR.paper.rank()==t.PSNR.ours.rank()).all() and (t.scenes.n==4).all()

def drawn(rng, scenes, trainings, nested, luck): # differences of two equal methods: scenes and trainings each add a spread
    i,j = (np.arange(scenes), np.arange(scenes)%trainings) if nested else map(np.ravel, np.meshgrid(range(scenes), range(trainings)))
    return rng.normal(0, 1, scenes)[i] + rng.normal(0, luck, trainings)[j] + rng.normal(0, .3, len(i)), i, j

@pytest.mark.parametrize('scenes,trainings,nested,luck', [(3, 1, False, 0), (13, 1, False, 0), (25, 5, True, 1), (25, 5, True, 3), (10, 5, False, 1), (6, 3, False, 1)])
def test_interval_covers(scenes, trainings, nested, luck):
    "A 95 % interval holds the truth nine times in ten or more, also where trainings differ as much as scenes do."
    rng = np.random.default_rng(0)
    found = [effects.interval(*drawn(rng, scenes, trainings, nested, luck)) for _ in range(400)]
    assert np.mean([e['low']<=0<=e['high'] for e in found])>=.9

@pytest.mark.parametrize('n', [3, 6])
def test_equals_are_seldom_called_worse(n):
    "Ten rivals, four metrics, everybody the same: false 'contradicted here' in at most one claim of twenty."
    rng,names,metrics = np.random.default_rng(n),['a', *(f'r{i}' for i in range(10))],('PSNR', 'SSIM', 'ERGAS', 'SAM')
    index = pd.MultiIndex.from_product([metrics, names, range(n)], names=['metric', 'method', 'scene'])
    def words():
        d = pd.Series(rng.normal(size=len(index)), index, name='value').reset_index().assign(seed=0, weights='-')
        return claims.whole_word([claims.metric_word(g) for _,g in claims.compared(d, 'a', names[1:], metrics)[0].groupby('metric')])
    assert np.mean([words()=='contradicted here' for _ in range(150)])<=.05+.035 # and what 150 draws may add by chance, two deviations

def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    x = rng.normal(30, 5, 12)
    d = pd.concat([pd.DataFrame(dict(method=m, scene=range(12), metric='PSNR', value=x+off+rng.normal(0, .2, 12))) for m,off in dict(a=1, b=0, c=2).items()]).assign(seed=0, weights='-')
    word = {o: claims.metric_word(claims.compared(d, 'a', [o], ['PSNR'])[0]) for o in 'bc'}
    assert word==dict(b='confirmed', c='contradicted here')

@pytest.mark.parametrize('over, verdict', [('bc', 'contradicted here'), ('c', 'not trained far enough'), ('d', 'confirmed')])
def test_one_rival_that_has_learned_refutes(monkeypatch, over, verdict):
    "A rival below interpolation decides nothing, and does not keep another from deciding; the note names who decides."
    levels = dict(a=33, b=36, c=29, d=32, GSA=31, EXP=30)
    d = pd.concat([scores(**{m: [v+i for i in range(6)]}).assign(weights='-' if m.isupper() else 'w') for m,v in levels.items()])
    monkeypatch.setattr(claims, '_scores', lambda *_: d)
    words,e,note,waits = claims._tested(dict(board='reduced', a='a', over=[*over], metrics=['PSNR']), 'quick')
    assert words==dict(PSNR=verdict) and e.over==over[0]
    assert (note, waits)==(('c is below EXP', 'c') if over=='c' else ('', ''))

def test_study_is_trained_once(tmp_path):
    "The second call reads; a third without one result trains that one again, to the same bytes."
    kw = dict(profile='smoke', keep=tmp_path)
    a = ablations.run('premix_fig21', **kw)
    files = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in tmp_path.rglob('scores.csv')}
    b = ablations.run('premix_fig21', **kw)
    assert len(files)==2 and a.equals(b) and all(f.stat().st_mtime_ns==t for f,(t,_) in files.items())
    gone = next(iter(files))
    gone.unlink()
    assert ablations.run('premix_fig21', **kw).equals(a) and gone.read_bytes()==files[gone][1]

def test_boards_keep_what_another_machine_trained(tmp_path, monkeypatch):
    "A fold of today's recipe is not trained again and stays in the file; one of another recipe does not, nor does one that is still being judged come in; and fewer of a new recipe do not replace those of the old."
    q = json.loads(json.dumps(asdict(recipe('PNN', 'board'))))
    curve = [[1, 30.], [2, 31.], [3, 31.5]]
    more = dict(recipe='board', minutes=1., machine='', precision='', validation=curve, without=[], commit='')
    def fold(home, k, steps):
        d = home/'built'/'PNN'/str(k)
        d.mkdir(parents=True)
        (d/'PNN.safetensors').touch()
        (d/'PNN.json').write_text(json.dumps(more | dict(seed=k, words=q | dict(steps=steps), steps=steps)), encoding='utf-8')
        s = pd.DataFrame([dict(scene=f'scene {k}', seed=k, value=home.name)])
        s.to_csv(d/'scores.csv', index=False)
        s[:0].to_csv(d/'scores-made.csv', index=False)
    for k,steps in ((0, q['steps']), (1, q['steps']), (2, 7)): fold(tmp_path/'old', k, steps)
    for k in (1, 3, 4): fold(tmp_path/'new', k, q['steps'])
    (tmp_path/'new'/'built'/'PNN'/'4'/'scores-made.csv').unlink()
    for home in ('old', 'new'): boards.collect(home=tmp_path/home, to=tmp_path/'to')
    d = pd.read_csv(tmp_path/'to'/'built'/'PNN.csv.gz')
    assert [*zip(d.seed, d.value)]==[(0, 'old'), (1, 'new'), (3, 'new')]
    assert [c['seed'] for c in json.loads((tmp_path/'to'/'built'/'PNN.json').read_text('utf-8'))]==[0, 1, 3]
    asked = []
    monkeypatch.setattr(boards, 'fold_scores', lambda m, k, *a, **kw: asked.append(k))
    boards.work(models=['PNN'], home=tmp_path/'third', to=tmp_path/'to')
    assert asked==[2, 4]
    (tmp_path/'to'/'built'/'PNN.json').write_text(json.dumps([dict(seed=k, words=q | dict(steps=7), validation=[]) for k in range(3)]), encoding='utf-8')
    boards.collect(home=tmp_path/'new', to=tmp_path/'to')
    assert {c['words']['steps'] for c in boards.kept_trainings('built', tmp_path/'to')['PNN']}=={7}, 'two trainings of a new recipe replaced three of the old'
    short = [[1, 30.], [2, 30.5], [3, 30.75]]
    (tmp_path/'to'/'built'/'PNN.json').write_text(json.dumps([dict(seed=k, words=q | dict(steps=7), steps=7, validation=short) for k in (1, 3)]), encoding='utf-8')
    assert not (tmp_path/'to'/'built'/'longer.csv').exists()
    for _ in range(2): boards.collect(home=tmp_path/'new', to=tmp_path/'to')
    assert boards.longer(at=tmp_path/'to').to_dict('records')==[dict(network='PNN', before=7, steps=q['steps'], last_third=.25, gained=.75, last_third_now=.5)]
    high = [[s, p+2] for s,p in curve]
    (tmp_path/'to'/'built'/'PNN.json').write_text(json.dumps([dict(seed=k, words=q | dict(steps=7), steps=7, validation=high) for k in (1, 3)]), encoding='utf-8')
    with pytest.warns(UserWarning, match='peaks 2.00 dB lower'): boards.collect(home=tmp_path/'new', to=tmp_path/'to')
    assert {c['steps'] for c in boards.kept_trainings('built', tmp_path/'to')['PNN']}=={7}, 'worse trainings replaced better ones'
    monkeypatch.undo()
    with pytest.raises(ValueError, match='another recipe: move it away'): boards.fold_scores('PNN', 2, scenes=tmp_path, home=tmp_path/'old')

@pytest.mark.parametrize('end', ['low', 'raised'])
def test_a_failed_training_is_repeated_once(end, tmp_path, monkeypatch, capsys):
    "At half the rate, also where it was interrupted between the two; the second stays, however it ends."
    q,rates = recipe('PNN', 'board'),[]
    def run(model, q, files, out, resume, **kw):
        rates.append(q.lr)
        if end=='raised' and len(rates)==1: raise FloatingPointError('the loss is not finite')
        (out/'PNN.safetensors').touch()
        (out/'PNN.json').write_text(json.dumps(dict(validation=[[1, 34.], [2, 5.]])), encoding='utf-8')
        (out/'metrics').mkdir(exist_ok=True)
        return out/'PNN.safetensors'
    monkeypatch.setattr('pansharp_nb.training.run', run)
    monkeypatch.setattr(boards, 'sources', lambda folder: [])
    file = boards._trained('PNN', q, 0, 'built', tmp_path, [], tmp_path)
    assert (rates, file.exists(), (tmp_path/'failed').exists())==([q.lr, q.lr/2], True, True)
    assert 'PNN 0 failed: again, at half the rate' in capsys.readouterr().err
    file.unlink()
    boards._trained('PNN', q, 0, 'built', tmp_path, [], tmp_path)
    assert rates[2:]==[q.lr/2]

def test_study_leaves_no_file_of_the_reader(tmp_path):
    with pytest.raises(ValueError, match='no study'): ablations.run('premix_tabel4', 'smoke', keep=tmp_path)
    assert not list(tmp_path.iterdir())

def test_text_reaches_the_network():
    "SUM-DUN with another text gives another image; without guidance it does not. (Guidance begins as nothing, hence the noise.)"
    ms,pan,_ = to_tensors(made_up('QB', 64))
    t = torch.nn.functional.normalize(torch.randn(2, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    for kind,same in (('spatial_channel', False), ('none', True)):
        torch.manual_seed(0)
        net = build('SUM-DUN', 4, d=4, blocks=(1,)*5, spim=kind).eval()
        for p in net.parameters(): p.data += .1*torch.randn_like(p)
        with torch.no_grad(): x,y = (networks.WithText(net, v)(ms/2047, pan/2047) for v in t)
        assert torch.equal(x, y)==same

@pytest.mark.parametrize('page', sorted((root/'reports').glob('[tf]*/*.html')), ids=lambda p: p.stem)
def test_a_curve_is_no_score(page):
    "Steps of a training are neither scenes nor a satellite: no report has a table of them."
    assert '<h2>-</h2>' not in page.read_text('utf-8')

@pytest.mark.parametrize('nb', sorted((root/'reports'/'figures').glob('*.ipynb')), ids=lambda p: p.stem)
def test_a_figure_is_in_its_notebook(nb):
    "Who opens the executed notebook sees what the page shows."
    out = [o.get('data', {}) for c in json.loads(nb.read_text('utf-8'))['cells'] for o in c.get('outputs', ())]
    assert any('image/png' in d or 'data:image' in ''.join(d.get('text/html', '')) for d in out)

def test_shift_is_that_of_the_scene():
    "What the folds say of a PAN is what its file says."
    if not (folder := settings.scenes_dir()): pytest.skip('real scenes: no data folder')
    for f in boards.folds().itertuples():
        if (file := folder/f'{f.scene}.nc').exists(): assert abs(max(map(abs, open_scene(file).attrs['pan_shift_px']))-f.shift)<.006, f.scene

def test_ms_is_off_as_the_folds_say():
    "Interpolation is nearest to the truth where it is moved back by what the folds say; once both are moved, where it is."
    if not (folder := settings.scenes_dir()): pytest.skip('real scenes: no data folder')
    triplets = [f for f in boards.folds().itertuples() if boards.came_degraded(f.scene) and (folder/f'{f.scene}.nc').exists()]
    if not triplets: pytest.skip('none of the scenes is here')
    def off(ds):
        ms,pan,gt,s = scoring.pair(ds, dtype=torch.float32)
        x,steps,inner = scoring.method('EXP')(ms, pan, s),range(-3, 4),slice(8, -8)
        def error(k): return (x.roll((-k[0], -k[1]), (-2, -1))-gt)[..., inner, inner].square().mean()
        return max(min([(a, b) for a in steps for b in steps], key=error), key=abs)
    for f in triplets:
        ds = open_scene(folder/f'{f.scene}.nc')
        found = off(ds)
        assert (found==f.ms_off if f.ms_off else abs(found)<2) and abs(off(boards.registered(ds, 'reduced')))<2, f.scene

def test_registered_is_nearer():
    "A PAN that came more than a pixel off lies nearer when it was moved, measured by correlation; no value of it is new."
    if not (folder := settings.scenes_dir()): pytest.skip('real scenes: no data folder')
    found = [open_scene(f) for n in boards.shifted() if (f := folder/f'{n}.nc').exists()]
    if not found: pytest.skip('none of the scenes is here')
    for ds in found:
        now = boards.registered(ds)
        (_,was),(ms,pan) = (to_tensors(d, dtype=torch.float64)[:2] for d in (ds, now))
        was,off = (offset(ms.mean(1, keepdim=True), p)[0].abs().max().item() for p in (was, pan))
        assert off<min(1, was), (ds.attrs['name'], was, off)
        assert set(np.unique(now.pan)) <= set(np.unique(ds.pan)) and bool((now.ms==ds.ms).all())

def test_front_page_is_the_scorecard():
    "README's table is the committed scorecard's."
    f = root/'reports'/'tables'/'scorecard.csv'
    assert claims.front(pd.read_csv(f)) in (root/'README.md').read_text('utf-8')
