"Scores of scenes in any unit, without contrast or bands, of equal names; quotients with a guard; somebody's fused image."
import subprocess, sys, warnings
import numpy as np, pytest, torch
from pansharp_nb import scoring
from pansharp_nb.classical.injection import quotient, watched
from pansharp_nb.data.degrade import wald
from pansharp_nb.data.scenes import as_scene, open_scene, scene_sensor
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.metrics.reference import cut, psnr

classical = [n for n in scoring._classical() if n not in ('SR-D', 'TV', 'CNMF')]
quick = ','.join(classical)

def arrays(ds, dtype='f8'): return [ds[k].values.astype(dtype) for k in ('ms', 'pan', 'gt')]

def scene(name='IKONOS', size=128, seed=0, **kw):
    ds = made_up(name, size=size, seed=seed)
    ms,pan,gt = arrays(ds, 'u2')
    return as_scene(ms, pan, name, gt, list(ds.bands), name='here', **kw)

def heard(f, *args, **kw):
    "What it gives, and the lines it says."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        out = f(*args, **kw)
    lines = [str(w.message) for w in said]
    assert not any('\n' in l for l in lines)
    return out, lines

# --- units -------------------------------------------------------------------------------------------------------------

spans = [('WV3', 2047), ('GF2', 1023), ('QB', 255), ('L8', 65535), ('WV2', 2048), ('IKONOS', 10000)]

@pytest.mark.parametrize('name,span', spans)
@pytest.mark.parametrize('protocol', ('reduced', 'full'))
def test_a_scene_of_fractions_scores_as_its_digital_numbers(name, span, protocol):
    "To the last digit, in single precision too, with the attributes of the original or without."
    ds = scene(name)
    if span==255: ds = as_scene(*((ds[k].values//8).astype('u1') for k in ('ms', 'pan')), name, (ds.gt.values//8).astype('u1'), name='here')
    bits = (span-1).bit_length()
    ds = ds.assign_attrs(bit_depth=bits)
    small = (ds/span).astype('f4')
    bare = as_scene(*(small[k].values for k in ('ms', 'pan')), name, small.gt.values, list(ds.bands), name='here')
    assert bare.attrs['bit_depth']==0
    asked = 'EXP,GSA,MTF-GLP-HPM,BT-H,C-GSA,FE-HPM' + ',SR-D,TV'*(name=='IKONOS')
    want = scoring.score(ds, protocol, asked)
    for d in (small.assign_attrs(ds.attrs), bare):
        got,said = heard(scoring.score, d, protocol, asked)
        assert np.array_equal(got.value, want.value) and (got.metric==want.metric).all()
        assert sum(f'fractions: scored as digital numbers of {bits} bits' in l for l in said)==1

@pytest.mark.parametrize('protocol', ('reduced', 'full'))
def test_fractions_without_steps(protocol):
    "Resampled data have none: they are reflectance, whatever bit depth is told, and to 1e-3 score the same."
    ms,pan,gt = (z+.37*np.sin(z) for z in arrays(scene()))
    asked = 'EXP,GSA,MTF-GLP,FE-HPM,PRACS,TV,SR-D'
    want = scoring.score(as_scene(ms, pan, 'IKONOS', gt, name='here'), protocol, asked)
    for bits,lines in ((11, 1), (0, 0)):
        ds,said = heard(as_scene, ms/2047, pan/2047, 'IKONOS', gt/2047, name='here', bit_depth=bits)
        assert sum('reflectance' in l for l in said)==lines
        got,_ = heard(scoring.score, ds, protocol, asked)
        unit = np.where(got.metric=='RMSE', 2047, 1)
        assert abs(got.value*unit-want.value).max()<1e-3

@pytest.mark.parametrize('name,span', [('WV3', 2047), ('GF2', 1023), ('IKONOS', 2047), ('L8', 65535)])
@pytest.mark.parametrize('degraded', (False, True))
def test_every_classical_method_scales_with_its_data(name, span, degraded):
    "On bare tensors, with steps and without: the image in fractions is the image in digital numbers, divided."
    ds = made_up(name, size=96 if degraded is False else 160, seed=3)
    ms,pan,_ = [torch.from_numpy(z)[None] for z in arrays(ds)]
    s = scene_sensor(ds)
    z = wald(ms, pan[None], s)[:2] if degraded else (ms, pan[None])
    for m in scoring._classical():
        if m=='TV' and name not in ('WV3', 'IKONOS'): continue
        f = scoring.method(m)
        x = f(*z, s)
        assert (f(*(v/span for v in z), s)*span-x).abs().max() < 1e-6*x.abs().max(), m
        near = (f(*((v/span).float() for v in z), s)*span-x).abs()
        top = 1e-5*x.abs().max()
        assert near.median() < top and (near > top+1e-3*x.abs()).double().mean() < 1e-3, m # poles are poles

# --- quotients ---------------------------------------------------------------------------------------------------------

dividing = [n for n in classical if scoring.divides(n)]

def roofs(name='GF2', seed=1):
    "A town with roofs that reflect nothing."
    ds = made_up(name, size=192, seed=seed)
    ms,pan,gt = [torch.from_numpy(z)[None] for z in arrays(ds)]
    for i,j in ((4, 9), (20, 30), (33, 12)): ms[..., i:i+5, j:j+5],pan[..., 4*i:4*i+20, 4*j:4*j+20],gt[..., 4*i:4*i+20, 4*j:4*j+20] = 1,1,1
    return ms, pan[None], gt, scene_sensor(ds)

@pytest.mark.parametrize('m', dividing)
@pytest.mark.parametrize('name', ('GF2', 'WV3', 'QB'))
def test_a_guard_keeps_factors_in_bounds(m, name):
    ms,pan,gt,s = roofs(name)
    with watched() as ratios: raw = scoring.method(m)(ms, pan, s)
    safe = scoring.method(m, guard=True)(ms, pan, s)
    M = scoring.method('EXP')(ms, pan, s)
    assert safe.isfinite().all() and safe.abs().max() < 3.01*max(M.abs().max(), ms.amax())+M.abs().max()*(m in ('PRACS', 'AWLP'))
    assert psnr(safe, gt, s.peak) > psnr(M, gt, s.peak)-6 and psnr(safe, gt, s.peak) > psnr(raw, gt, s.peak)-.5
    assert len(ratios)>=1 and all(n>0 and 0<=bad<=n for bad,n,_ in ratios)

@pytest.mark.parametrize('m', dividing)
def test_a_guard_that_has_nothing_to_do_does_nothing(m):
    "Bright ground, little contrast, bands that follow PAN. (Without haze every ground has a darkest pixel.)"
    g = torch.Generator().manual_seed(0)
    base = torch.nn.functional.avg_pool2d(torch.rand(1, 5, 68, 68, generator=g, dtype=torch.float64), 5, 1)
    pan,ms = 700+200*base[:, :1],500+100*(base[:, :1]+.2*base[:, 1:])[..., 2::4, 2::4]
    if m=='MTF-GLP-HPM-H': pan,ms = pan*0+700,ms
    a,b = (scoring.method(m, guard=k)(ms, pan, 'IKONOS') for k in (False, True))
    assert torch.equal(a, b)

def test_a_method_without_quotient_has_no_guard():
    assert scoring.method('GSA', guard=True) is scoring.method('GSA')
    assert dividing=='SFIM AWLP MTF-GLP-HPM MTF-GLP-HPM-H MTF-GLP-HPM-R MF FE-HPM Brovey BT-H PRACS'.split()

def test_quotients_of_nothing():
    z = torch.zeros(1, 2, 3, 3)
    assert quotient(z, z+2.2e-16, True).unique().tolist()==[1] and quotient(z+1, z-1, True).unique().tolist()==[1]
    with watched() as seen:
        quotient(z+1, z+1e-9)
        with watched() as inner: quotient(z+1, z+1)
    assert [v[:2] for v in seen]==[(9, 9)] and inner==[(0, 9, 1.)]

def test_score_says_where_it_divided_by_nothing():
    ms,pan,gt,s = roofs()
    ds = as_scene(*(z.squeeze().numpy() for z in (ms, pan)), 'GF2', gt[0].numpy(), name='roofs')
    raw,said = heard(scoring.score, ds, methods='GSA,BT-H,MTF-GLP-HPM-H')
    assert len(said)==1 and said[0].startswith('roofs: division by nearly nothing') and 'BT-H at' in said[0] and '% of the pixels' in said[0] and 'GSA' not in said[0]
    safe,said = heard(scoring.score, ds, methods='GSA,BT-H,MTF-GLP-HPM-H', guard=True)
    assert set(raw.weights)=={'-'} and set(safe.weights[safe.method!='GSA'])=={'guarded'}
    a,b = (d[d.metric=='PSNR'].set_index('method').value for d in (raw, safe))
    assert b['GSA']==a['GSA'] and (b > a['GSA']-5).all() and said[0].startswith('roofs: division by nearly nothing, bounded')

@pytest.mark.parametrize('name', ('GF2rr_psdata3_tr0', 'GF2rr_psdata3_tr3', 'GF2rr_psdata3_tr4', 'Unknown4b_8bit_fang', 'WV2_SN6_rotterdam3', 'WV2_sydney8bit', 'WV2_imgWV2'))
def test_guarded_methods_on_real_scenes(scenes, name):
    "Where the toolbox's lose up to 60 dB: never far below GSA, and nowhere worse than the toolbox's."
    if not (scenes/f'{name}.nc').exists(): pytest.skip(f'no {name} here')
    ms,pan,ref,s = heard(scoring.pair, open_scene(scenes/f'{name}.nc'))[0]
    def db(m, guard=False): return psnr(cut(scoring.method(m, guard)(ms, pan, s)), cut(ref), s.peak).item()
    gsa = db('GSA')
    for m in dividing:
        if m in ('Brovey', 'AWLP'): continue # far from GSA with good quotients, too
        assert db(m, True) > max(gsa-5, db(m)-.15), m

# --- what comes in -------------------------------------------------------------------------------------------------------

def odd_pairs():
    g = torch.Generator().manual_seed(0)
    ms,pan = torch.rand(2, 4, 16, 16, generator=g, dtype=torch.float64)*500+100,torch.rand(2, 1, 64, 64, generator=g, dtype=torch.float64)*500+100
    return dict(arrays=(ms.numpy(), pan.numpy()), one_array=(ms, pan.numpy()), nothing=(None, pan), one_image=(ms[0], pan[0]), planes=(ms[0, 0], pan[0, 0]), five_axes=(ms[None], pan[None]),
        half=(ms.half(), pan.half()), brain_half=(ms.bfloat16(), pan.bfloat16()), bytes_=((ms/3).to(torch.uint8), (pan/3).to(torch.uint8)), mixed=(ms.float(), pan),
        no_image=(ms[:0], pan[:0]), no_band=(ms[:, :0], pan), no_pixel=(ms[..., :0], pan[..., :0]), one_pan=(ms, pan[:1]), two_pans=(ms, pan.expand(-1, 2, -1, -1)),
        nan=(ms*torch.nan, pan), infinite=(ms, pan/0), swapped=(pan, ms), ratio=(ms, pan[..., :24, :24]), complex_=(ms+0j, pan+0j))

@pytest.mark.parametrize('what,z', odd_pairs().items(), ids=lambda v: v if isinstance(v, str) else '')
def test_classical_methods_refuse_in_a_line(what, z):
    for m in scoring._classical():
        with pytest.raises(ValueError) as e: scoring.method(m)(*z, 'IKONOS')
        assert '\n' not in str(e.value) and len(str(e.value))<200, m

@pytest.mark.parametrize('h,w,r', ((1, 1, 4), (1, 1, 1), (1, 16, 4), (2, 3, 2), (3, 3, 4), (7, 5, 4)))
def test_classical_methods_on_a_few_pixels(h, w, r):
    g = torch.Generator().manual_seed(0)
    ms,pan = torch.rand(1, 4, h, w, generator=g, dtype=torch.float64)*500+100,torch.rand(1, 1, r*h, r*w, generator=g, dtype=torch.float64)*500+100
    for m in scoring._classical():
        try: assert heard(scoring.method(m), ms, pan, 'IKONOS')[0].isfinite().all(), m
        except ValueError as e: assert '\n' not in str(e) and ' px' in str(e), m

# --- scenes without contrast, bands, names ------------------------------------------------------------------------------

def only(ds, bands): return as_scene(ds.ms.values[bands], ds.pan.values, 'generic', ds.gt.values[bands], name='here')
def with_band(ds, c, v):
    ds = ds.copy(deep=True)
    ds.ms[c],ds.gt[c] = v,v
    return ds

poor = dict(one_band=lambda d: only(d, [0]), two_bands=lambda d: only(d, [0, 3]), flat=lambda d: as_scene(d.ms.values*0+300, d.pan.values*0+500, 'IKONOS', d.gt.values*0+300, name='here'),
    flat_band=lambda d: with_band(d, 1, 400), black_band=lambda d: with_band(d, 2, 0),
    flat_pan=lambda d: as_scene(d.ms.values, d.pan.values*0+500, 'IKONOS', d.gt.values, name='here'), twins=lambda d: as_scene(d.ms.values[[0, 0, 2, 2]], d.pan.values, 'IKONOS', d.gt.values[[0, 0, 2, 2]], name='here'))

@pytest.mark.parametrize('what', poor)
@pytest.mark.parametrize('protocol', ('reduced', 'full'))
def test_poor_scenes(what, protocol):
    "Every number of the frame is finite, what is not there was named."
    df,said = heard(scoring.score, poor[what](scene()), protocol, quick)
    fine = np.isfinite(df.value) | (df.metric=='PSNR') & any('PSNR is infinite' in l for l in said)
    assert fine.all() and df.method.nunique()==len(classical)
    if what=='flat': assert (df[df.metric.isin(['Q2n', 'Qavg', 'SSIM', 'SCC', 'QNR', 'HQNR'])].value>.99).all()
    left = dict(reduced={'SAM'}, full={'D_lambda', 'QNR'})[protocol] if what=='one_band' else set()
    full = scoring.score(scene(), protocol, 'EXP')
    assert set(full.metric)-set(df.metric)==left
    assert all(any(m in l and 'all methods' in l for l in said) for m in left)
    if what=='black_band' and protocol=='reduced': assert any('ERGAS leaves band 3 out' in l and 'all methods' in l for l in said)

def test_a_perfect_image_is_infinite_and_said():
    ds = scene()
    df,said = heard(scoring.judge_image, ds.gt.values, ds)
    assert df[df.metric=='PSNR'].value.tolist()==[np.inf] and np.isfinite(df[df.metric!='PSNR'].value).all()
    assert said==['here: PSNR is infinite: fused and reference are equal (fused)']

def test_equal_names_are_told_apart(tmp_path):
    from pansharp_nb.data.scenes import save_scene
    for d in ('a', 'b', 'c'):
        (tmp_path/d).mkdir()
        save_scene(scene(size=64), tmp_path/d/'scene.nc')
    (found,files),said = heard(scoring.gather, ','.join(str(tmp_path/d/'scene.nc') for d in 'abc'))
    names = [d.attrs['name'] for d in found]
    assert len(set(names))==3 and len(files)==3 and len(said)==2 and names[1].startswith(names[0]) and names[1] in said[0]
    taken = {'x', 'x#2'}
    assert heard(scoring.called_apart, scene().assign_attrs(name='x'), taken)[0].attrs['name']=='x#3' and 'x#3' in taken
    assert heard(scoring.called_apart, scene(), taken)[1]==[]

# --- somebody's image --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def fused():
    ds,kept = scene('WV3'),{}
    want = heard(scoring.score, ds, methods='GSA', keep=kept)[0]
    return ds, kept['GSA'].numpy(), want.set_index('metric').value

def ways(x): # of handing it over -> how many lines that costs
    yield x, 0
    yield torch.from_numpy(x)[None], 0
    yield x.astype('f4'), 0
    yield np.ascontiguousarray(x.transpose(1, 2, 0)), 1
    yield x/2047, 1
    yield (x/2047).transpose(1, 2, 0).astype('f4'), 2

def test_judge_any_form_of_an_image(fused):
    ds,x,want = fused
    for z,n in ways(x):
        df,said = heard(scoring.judge_image, z, ds)
        assert abs(df.set_index('metric').value-want).max()<1e-4 and len(said)==n
        assert list(df.columns)==scoring.columns and set(df.method)=={'fused'} and set(df.protocol)=={'reduced'}
    rounded,_ = heard(scoring.judge_image, x.clip(0).round().astype('u2'), ds)
    assert abs(rounded.set_index('metric').value-want).max()<.02
    again,said = heard(scoring.judge_image, x, *(torch.from_numpy(v) for v in arrays(ds)), 'WV3', 'mine')
    assert abs(again.set_index('metric').value-want).max()<1e-9 and set(again.method)=={'mine'} and not said
    small = heard(scoring.judge_image, x/2047, (ds/2047).assign_attrs(ds.attrs))[0]
    assert abs(small.set_index('metric').value-want).max()<1e-6

def test_judge_without_reference(fused):
    ds,x,_ = fused
    want = heard(scoring.score, ds, 'full', 'GSA')[0].value
    for how in ((ds.drop_vars('gt'),), (ds.ms.values, ds.pan.values, None, 'WV3')):
        df = heard(scoring.judge_image, x, *how)[0]
        assert abs(df.value-want).max()<1e-9 and set(df.protocol)=={'full'}

def test_judge_cuts_no_data_from_all(fused):
    "A black border of MS is cut from the image and the reference as well, and what is in it does not count."
    ds,x,_ = fused
    dark = ds.copy(deep=True)
    dark.ms[..., :4],dark.pan[:, :16],dark.gt[..., :16] = 0,0,0
    y = x.copy()
    y[..., :16] = np.nan
    a,b = heard(scoring.judge_image, y, dark)[0],heard(scoring.judge_image, x[..., 16:], ds.isel(x_ms=slice(4, None), x=slice(16, None)))[0]
    assert abs(a.value-b.value).max()<1e-9

@pytest.mark.parametrize('what,say', [('small', 'it has to be (8, 128, 128)'), ('other bands', 'it has to be (8, 128, 128)'), ('nan', 'in 7 pixels'), ('infinite', 'in 1 pixels'),
    ('complex', 'holds complex128'), ('words', 'holds <U'), ('empty', 'it has to be'), ('flat list', 'it has to be'), ('reference', 'reference has the shape'), ('no pan', 'no PAN')])
def test_judge_refuses_in_a_line(fused, what, say):
    ds,x,_ = fused
    holes,poles = x.copy(),x.copy()
    holes[2, 5, :7],poles[:, 9, 9] = np.nan,np.inf
    z = {'small': x[:, ::2, ::2], 'other bands': x[:4], 'nan': holes, 'infinite': poles, 'complex': x+0j, 'words': x.astype(str), 'empty': x[:, :0], 'flat list': x.ravel().tolist()}.get(what, x)
    args = (ds.ms.values, None) if what=='no pan' else (ds,)
    kw = dict(reference=x[:, :5]) if what=='reference' else {}
    with pytest.raises(ValueError) as e: scoring.judge_image(z, *args, **kw)
    assert say in str(e.value) and '\n' not in str(e.value) and len(str(e.value))<200

def test_judge_doubts_another_unit(fused):
    ds,x,_ = fused
    assert any('fused has the mean' in l and 'the scores mean nothing' in l for l in heard(scoring.judge_image, x/8, ds)[1])
    assert any('reference has the mean' in l for l in heard(scoring.judge_image, x, ds, reference=ds.gt.values*9.)[1])
    assert any('multiplied by 2047' in l for l in heard(scoring.judge_image, x, ds, reference=ds.gt.values/2047)[1])

def test_your_own_method_in_every_table(tmp_path, monkeypatch):
    "A function, its place, and a name that another package has registered; a wrong answer is named."
    (tmp_path/'theirs.py').write_text('from pansharp_nb.layers.sizes import upsample\ndef f(ms, pan, sensor): return upsample(ms, 4)\n', encoding='utf-8')
    (tmp_path/'theirs-1.dist-info').mkdir()
    (tmp_path/'theirs-1.dist-info'/'METADATA').write_text('Metadata-Version: 2.1\nName: theirs\nVersion: 1\n', encoding='utf-8')
    (tmp_path/'theirs-1.dist-info'/'entry_points.txt').write_text('[pansharp_nb.methods]\nTheirs = theirs:f\n', encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    scoring.strangers.cache_clear()
    ds = made_up('QB', 128)
    df = scoring.score(ds, methods=['GSA', 'theirs:f', 'theirs', {'mine': lambda ms,pan,sensor: ms.repeat_interleave(4, 2).repeat_interleave(4, 3)}])
    t = df.pivot(index='metric', columns='method', values='value')
    assert list(df.method.unique())==['GSA', 'theirs:f', 'Theirs', 'mine'] and (t['theirs:f'].dropna()==t['Theirs'].dropna()).all()
    assert t.loc['PSNR', 'mine']<t.loc['PSNR', 'theirs:f']<t.loc['PSNR', 'GSA']
    with pytest.raises(ValueError, match='is meant'): scoring.score(ds, methods=[{'mine': lambda ms,pan,sensor: ms}])
    with pytest.raises(ValueError, match='cannot be imported'): scoring.score(ds, methods='theirs:g')
    scoring.strangers.cache_clear()

def test_the_package_is_its_own_door():
    code = "import sys, pansharp_nb as ps; assert 'torch' not in sys.modules; print(ps.score(ps.made_up('QB', 128), methods='EXP').metric.iloc[0], *sorted(ps.__all__))"
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8', check=True).stdout.split()
    assert {'open_scene', 'score', 'method', 'methods', 'made_up', 'train', 'judge', 'fuse'}<=set(said)
