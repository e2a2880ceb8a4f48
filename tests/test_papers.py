"The papers' numbers, their claims, and the studies that answer them: checks that need no image, and trainings of two steps."
import re
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from pansharp_nb import scoring
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.models import networks
from pansharp_nb.models.networks import build
from pansharp_nb.papers import ablations, claims
from pansharp_nb.papers.reported import agreement, beside, board, reported

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
        assert sum(k in t for k in ('board', 'study', 'count', 'needs'))==1, c['id']
        if 'study' in t: assert {t['a'], *t['over']}<=set(ablations.studies[t['study']].variants), c['id']
        if 'board' in t: assert {t['a'], *t['over']}<=known | set(networks.absent), c['id']
        of = 'needs' if 'needs' in t else 'count a knobs bands equals tolerance less_than more_than' if 'count' in t else 'board study a over metrics sensors within'
        assert set(t)<=set(of.split()), c['id']

def scores(**values): # method -> PSNR of each scene
    return pd.DataFrame([dict(method=m, scene=i, sensor='QB', metric='PSNR', value=v, seed=0) for m,vs in values.items() for i,v in enumerate(vs)])

@pytest.mark.parametrize('a, b, verdict', [((31, 32, 33, 34), (30, 31, 32, 33), 'reproduced'), ((30, 31, 32, 33), (31, 32, 33, 34), 'not reproduced'),
    ((31, 30, 31, 30), (30, 31, 30, 31), 'undecided'), ((31, 32), (30, 31), 'needs data')])
def test_verdicts(a, b, verdict):
    "An interval on one side of zero decides; two scenes never do."
    rows,_ = claims._compared(scores(a=a, b=b), dict(a='a', over=['b'], metrics=['PSNR']))
    assert claims.verdict_of(rows)==verdict

def test_verdict_knows_which_way_is_better():
    d = scores(a=(1, 2, 3), b=(2, 3, 4))
    rows = claims._compared(d.assign(metric='ERGAS'), dict(a='a', over=['b'], metrics=['ERGAS']))[0]
    assert claims.verdict_of(rows)=='reproduced' and claims.verdict_of(claims._compared(d, dict(a='a', over=['b'], metrics=['PSNR']))[0])=='not reproduced'

def test_agreement_of_orders():
    "Our scores in the paper's order agree wholly, in reverse not at all."
    b = board('PreMix', '1', 'GF1')[['PSNR']]
    def ours(sign): return scores(**{m: [sign*v+i for i in range(4)] for m,v in b.PSNR.items()})
    for sign in (1, -1): assert agreement(b, ours(sign)).loc['PSNR', ['tau', 'low', 'high']].tolist()==[sign]*3
    assert (beside(b, ours(1)).PSNR['paper rank']==beside(b, ours(1)).PSNR['ours rank']).all()

@pytest.mark.parametrize('n', [3, 6, 12])
def test_interval_covers(n):
    "The 95 % interval of a paired difference holds the truth nine times in ten or more, for few scenes too."
    rng,hits,draws = np.random.default_rng(0),0,200
    for k in range(draws):
        e = ablations.effect(scores(a=rng.normal(1, 1, n), b=np.zeros(n)), 'a', 'b', draws=400, seed=k)
        hits += e['low']<1<e['high']
    assert hits>=.9*draws

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
        with torch.no_grad(): x,y = (ablations.Told(net, v)(ms/2047, pan/2047) for v in t)
        assert torch.equal(x, y)==same

def test_front_page_is_the_scorecard():
    "README's table is the committed scorecard's."
    f = root/'reports'/'tables'/'scorecard.csv'
    assert claims.front(claims.tally(pd.read_csv(f))) in (root/'README.md').read_text('utf-8')
