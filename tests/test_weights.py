"Weights that ship: every file loads without pickle, is what its card says, and fuses better than interpolation."
import hashlib, json, subprocess, time, pytest, torch
from dataclasses import replace
from pathlib import Path
from safetensors.torch import save
import pansharp_nb
from pansharp_nb import settings, weights
from pansharp_nb.data.licences import granted, licence_of_weights
from pansharp_nb.data.scaling import scale_of
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.sensors import sensor
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.metrics.reference import psnr
from pansharp_nb.models.networks import as_method, build, five
from pansharp_nb.scoring import method

shipped = sorted((Path(pansharp_nb.__file__).parent/'trained').glob('*.safetensors'))
each = pytest.mark.parametrize('file', shipped, ids=lambda f: f.stem)
facts = {*'name bands ratio scaling knobs recipe words steps seed minutes machine validation data test commit came_with sha256 dtype'.split(),
    'half_costs_db', 'licence'}
root = Path(__file__).parents[1]

@each
def test_card(file):
    card = weights.card_of(file)
    assert facts<=set(card) and all(len(d)==2 and all(d) for d in card['data'])
    assert card['dtype']=='float32' or card['half_costs_db']<.01
    assert not [l for _,l in card['data'] if l.startswith('as ')] and card['licence']==licence_of_weights(card['data'])
    assert card['licence'].startswith('research use only') or all(granted(l) for _,l in card['data'])
    assert not {n for n,_ in card['data']} & {'IKONOS_imgIK', 'GF2rr_psdata3_tr4', 'QBrr_psdata_test', 'SPOT6_cropland', 'WV2_SN6_rotterdam3', 'GF2_psdata3_fullstrip'}

@each
def test_fuses_a_camera_it_never_saw(file):
    "A made-up scene of its own: for 4 bands of a sensor that was in no training, for 8 of a seed that was in none."
    net,card = weights.load(file)
    if card['ratio']!=4: pytest.skip('ratio')
    cam = 'WV3' if card['bands']==8 else 'IKONOS'
    ds = made_up(cam, size=128, seed=3)
    ms,pan,gt = to_tensors(ds)
    x = weights.shipped(net, card)(ms, pan, cam)
    assert psnr(x, gt)>psnr(method('EXP')(ms, pan, cam), gt)

@each
def test_the_commit_of_a_card_is_in_the_history(file):
    "The commit that stood when it was trained, and the one that brought the file in."
    if not (root/'.git').exists(): pytest.skip('no clone')
    def git(*a): return subprocess.run(['git', '-C', root, *a], capture_output=True, encoding='utf-8')
    if git('cat-file', '-e', 'da6c9aef^{commit}').returncode: pytest.skip('a shallow clone, or another history')
    card = weights.card_of(file)
    both = card['commit'].partition('+')[0],card['came_with']
    assert all(git('merge-base', '--is-ancestor', c, 'HEAD').returncode==0 for c in both)
    assert file.name in git('show', '--name-only', '--format=', card['came_with']).stdout

def test_what_ships():
    names = {f.stem.rsplit('-', 2)[0] for f in shipped}
    assert set(five)<=names and len(names-set(five))>=10
    assert sum(f.stat().st_size for f in shipped)<40e6

def test_some_weights_are_as_free_as_the_code():
    "Trained on nothing but scenes that anybody may use for anything."
    free = [c for c in map(weights.card_of, shipped) if not c['licence'].startswith('research use only')]
    assert free and all(granted(l) for c in free for _,l in c['data'])

@pytest.mark.parametrize('how', ['peak', 'scene', 'gs'])
@pytest.mark.parametrize('bands', [1, 3, 4, 8])
def test_scaling_goes_there_and_back(how, bands):
    torch.manual_seed(0)
    ms,pan = 2047*torch.rand(2, bands, 12, 12, dtype=torch.float64),2047*torch.rand(2, 1, 48, 48, dtype=torch.float64)
    s = scale_of(ms, pan, 'generic' if bands!=8 else 'WV2', how)
    x = ms.repeat_interleave(4, -1)
    torch.testing.assert_close(s.back(s.there(x)), x.clamp(0, 2047) if how=='peak' else x, rtol=0, atol=1e-3)

def test_gs_makes_gsa_a_replacement():
    "Where PAN is a sum of the bands, the first component and PAN are the same image."
    torch.manual_seed(0)
    ms = torch.rand(1, 4, 16, 16, dtype=torch.float64)*torch.tensor([1., 50, 3, 9])[:, None, None]
    pan = (ms*torch.tensor([.1, .2, .3, .4])[:, None, None]).sum(1, keepdim=True).repeat_interleave(4, -1).repeat_interleave(4, -2)
    a,p = scale_of(ms, pan, 'generic', 'gs')(ms, pan)
    y = a[:, :1].repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert (y-p).abs().max()<.05*(p-.5).abs().max()

def test_bands_in_any_order(tmp_path):
    net = build('FusionNet', 4).eval()
    ds = made_up('QB', size=64)
    ms,pan,_ = to_tensors(ds)
    from pansharp_nb.data.sensors import sensor
    rgbn = sensor('QB').select(('R', 'G', 'B', 'NIR'))
    i = [2, 1, 0, 3]
    f = as_method(net, 'gs')
    torch.testing.assert_close(f(ms[:, i], pan, rgbn), f(ms, pan, 'QB')[:, i])

def test_halfway_to_gsa_on_a_strange_sensor():
    torch.manual_seed(0)
    net,card = build('FusionNet', 4).eval(),dict(scaling='gs', sensors=['QB', 'generic'])
    ms,pan,_ = to_tensors(made_up('QB', size=64))
    f,alone,g = weights.shipped(net, card),as_method(net, 'gs'),method('GSA')
    torch.testing.assert_close(f(ms, pan, 'QB'), alone(ms, pan, 'QB'))
    for s in ('GE1', 'generic'): torch.testing.assert_close(f(ms, pan, s), (alone(ms, pan, s)+g(ms, pan, s))/2)
    torch.testing.assert_close(weights.shipped(net, card | dict(scaling='peak'))(ms, pan, 'GE1'), as_method(net, 'peak')(ms, pan, 'GE1'))

def test_halfway_to_sfr_where_nobody_says_how_soft_the_bands_are():
    net,card = weights.load(weights.file_of('AnyPan', 4))
    ms,pan,_ = to_tensors(made_up('GE1', size=64))
    f,alone,s = weights.shipped(net, card),as_method(net, card['scaling']),method('SFR')
    torch.testing.assert_close(f(ms, pan, 'GE1'), (alone(ms, pan, 'GE1')+s(ms, pan, 'GE1'))/2)
    assert weights.label('AnyPan', 4, 4, 'GE1').endswith('+SFR/2')
    for told in ('QB', replace(sensor('GE1'), kappa='pair'), replace(sensor('GE1'), kappa=.3)):
        torch.testing.assert_close(f(ms, pan, told), alone(ms, pan, told))
        assert not weights.label('AnyPan', 4, 4, told).endswith('/2')

few = dict(name='FusionNet', bands=4, ratio=4, scaling='gs', knobs=dict(nf=4, blocks=1))

@pytest.fixture
def small(tmp_path):
    "A file of weights, its network, and a way to lie about it: other bytes, other facts of the card."
    net = build('FusionNet', 4, nf=4, blocks=1)
    f = tmp_path/'FusionNet-4b-r4.safetensors'
    weights.save_weights(f, net, few)
    def lie(blob=None, text=None, **facts):
        card = json.loads(f.with_suffix('.json').read_text('utf-8')) | facts
        if blob is not None: f.write_bytes(blob)
        f.with_suffix('.json').write_text(json.dumps(card) if text is None else text, encoding='utf-8')
        return f
    return f, net, lie

def refused(f, said):
    t = time.monotonic()
    with pytest.raises(ValueError, match=said) as e: weights.load(f)
    assert f.stem in str(e.value) and '\n' not in str(e.value) and time.monotonic()-t<20

@pytest.mark.parametrize('cut', [0, 1, 7, .1, .5, -1])
def test_cut_files_are_one_clear_line(small, cut):
    f,_,lie = small
    b = f.read_bytes()
    refused(lie(b[:int(cut*len(b)) if 0<cut<1 else cut]), 'damaged')

@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '3', '['*10**5, '{"name": "PNN"}', '\x00', '"'], ids=lambda t: t[:9])
def test_broken_cards_are_one_clear_line(small, text): refused(small[2](text=text), 'card')

def test_a_card_in_another_alphabet_or_none(small):
    f,_,lie = small
    f.with_suffix('.json').write_bytes(b'\xff\xfe{')
    refused(f, 'cannot be read')
    f.with_suffix('.json').unlink()
    refused(f, 'weights need their card')

def each_of(key, said, *values): return [({key: v}, said) for v in values]

lies = [*each_of('name', 'no network', 'SkyNet', ['FusionNet'], 'A-PNN-TA', None), *each_of('name', 'is named FusionNet', 'PanNet'),
    *each_of('bands', 'speaks of FusionNet-', 8, 'any'), *each_of('bands', 'bands', 0, 10**9, True, '4', 4., None),
    *each_of('ratio', 'speaks of FusionNet-4b-r2', 2), *each_of('ratio', 'ratio', 4., -4, 1, '4', True),
    *each_of('scaling', 'scaling', 'best', None), *each_of('sensors', 'sensors', 'QB', [3]), *each_of('knobs', 'knobs', [], None, 3),
    *each_of('knobs', 'no knob', dict(nf=4, depth=2), dict(ratio=4), dict(bands=4)), *each_of('sha256', 'damaged', None, '0'*64, 3),
    *each_of('knobs', 'kind int', *(dict(nf=v) for v in ('4', 4., True, [4], None))), *each_of('knobs', 'does not fit', dict(nf=8)),
    *each_of('knobs', 'beyond', dict(nf=10**12)), *each_of('knobs', 'cannot be built', dict(nf=-4), dict(nf=4096, blocks=3000)),
    *each_of('knobs', 'more than', dict(nf=4096, blocks=3000), dict(nf=1, blocks=4096))]

@pytest.mark.parametrize('facts,said', lies)
def test_a_card_that_lies_is_one_clear_line(small, facts, said): refused(small[2](**facts), said)

unbuilt = [('PreMix-B', dict(colour='red'), 'cannot be built'), ('PreMix-B', dict(layers=4000, dim=1000), 'more than'),
    ('PreMix-B', dict(dim=1.5), 'cannot be built'), ('SUM-DUN', dict(blocks=[10**9]*5), 'beyond'),
    ('SUM-DUN', dict(blocks=[[3]]), 'beyond'), ('SUM-DUN', dict(prompt_dropout=float('nan')), 'beyond'),
    ('SUM-DUN', dict(op='x'*99), 'beyond'), ('MFMIF-Net', dict(kernel_sizes=[4096]*64), 'cannot be built'),
    ('DCFNet', dict(residual='yes'), 'kind bool'), ('PNN', dict(nf=[]), 'cannot be built|does not fit')]

@pytest.mark.parametrize('name,knobs,said', unbuilt)
def test_knobs_of_every_kind_have_bounds(small, name, knobs, said):
    bands = 'any' if name=='SUM-DUN' else 4
    refused(_as(small[0], name, bands, knobs), said)

def _as(f, name, bands, knobs): # the small file under the name of another network
    g = f.with_name(f'{name}-{bands}b-r4.safetensors'.replace('anyb', 'any'))
    g.write_bytes(f.read_bytes())
    card = json.loads(f.with_suffix('.json').read_text('utf-8')) | dict(name=name, bands=bands, knobs=knobs)
    g.with_suffix('.json').write_text(json.dumps(card), encoding='utf-8')
    return g

def test_what_is_not_finite_or_not_a_network(small):
    f,net,lie = small
    for bad in (torch.nan, torch.inf):
        state = {k: v.clone() for k,v in net.state_dict().items()}
        next(iter(state.values())).view(-1)[0] = bad
        blob = save(state)
        refused(lie(blob, sha256=hashlib.sha256(blob).hexdigest()), 'NaN or infinite')
    for blob in (b'', b'x'*100, (2**62).to_bytes(8, 'little')+b'{}', save({'a': torch.zeros(3)}), save(state)[:-40]):
        refused(lie(blob, sha256=hashlib.sha256(blob).hexdigest()), '.')
    refused(lie(b'\0'*2**23), 'larger than FusionNet can be')

@pytest.mark.parametrize('bad', [torch.nan, torch.inf, -torch.inf])
def test_a_broken_network_is_never_written(tmp_path, bad):
    net,f = build('DiCNN1', 4, nf=4),tmp_path/'DiCNN1-4b-r4.safetensors'
    card = dict(name='DiCNN1', bands=4, ratio=4, scaling='gs', knobs=dict(nf=4))
    with torch.no_grad(): list(net.parameters())[-1][0] = bad
    with pytest.raises(ValueError, match='is not written.*NaN'): weights.save_weights(f, net, card)
    net = build('DiCNN1', 4, nf=4)
    for wrong in (dict(bands=8), dict(scaling='x'), dict(knobs=dict(depth=1))):
        with pytest.raises(ValueError, match='is not written'): weights.save_weights(f, net, card | wrong)
    assert not list(tmp_path.iterdir())

def test_every_network_with_every_knob_of_its_signature_is_taken():
    "What a constructor has by default lies within the bounds."
    import inspect
    from pansharp_nb.models.networks import networks
    for n,make in networks.items():
        ps = inspect.signature(make).parameters.items()
        knobs = {k: p.default for k,p in ps if k not in ('bands', 'ratio') and p.default is not p.empty}
        assert weights._knob_fault(n, json.loads(json.dumps(knobs)))=='' and weights._knob_fault(n, knobs)==''

def test_the_label_covers_settings_and_tensors(small):
    f,_,lie = small
    card = weights.card_of(f)
    same = [weights.digest(c) for c in (card, card | dict(minutes=1, test={}), dict(reversed(card.items())))]
    facts = [dict(knobs=dict(nf=4)), dict(knobs=dict(nf=4, blocks=2)), dict(scaling='peak'), dict(sensors=['QB']), dict(sha256='0'*64)]
    other = [weights.digest(card | c) for c in facts]
    assert len(set(same))==1 and len({same[0], *other})==6

def test_another_setting_is_another_network(small):
    "The cache of networks looks at the card, too."
    f,_,lie = small
    assert weights.load(f)[1]['scaling']=='gs'
    assert weights.load(lie(scaling='scene'))[1]['scaling']=='scene'
    refused(lie(knobs=dict(nf=5, blocks=1)), 'does not fit')

@pytest.mark.parametrize('half', [True, False])
def test_two_names_for_one_tensor(tmp_path, half):
    f,net = tmp_path/'MDCUN-4b-r4.safetensors',build('MDCUN', 4, n=6, mask=4)
    weights.save_weights(f, net, dict(name='MDCUN', bands=4, ratio=4, scaling='gs', knobs=dict(n=6, mask=4)), half)
    for k,v in weights.load(f)[0].state_dict().items(): torch.testing.assert_close(v, net.state_dict()[k], rtol=1e-3, atol=1e-4)

def test_your_own_weights_go_first(tmp_path, monkeypatch):
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(tmp_path))
    (tmp_path/'weights').mkdir()
    f = tmp_path/'weights'/'DiCNN1-6b-r4.safetensors'
    weights.save_weights(f, build('DiCNN1', 6), dict(name='DiCNN1', bands=6, ratio=4, scaling='gs', knobs={}))
    assert weights.file_of('DiCNN1', 6)==f and weights.has_weights('DiCNN1') and weights.label('DiCNN1', 6).startswith('DiCNN1-6b-r4@')
    x = method('DiCNN1')(torch.rand(1, 6, 8, 8), torch.rand(1, 1, 32, 32), 'generic')
    assert x.shape==(1, 6, 32, 32)

@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A project of one's own, with a DiCNN1 of a few numbers in its folder of weights."
    monkeypatch.delenv('PANSHARP_NB_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path/'weights').mkdir()
    card = dict(name='DiCNN1', bands=4, ratio=4, scaling='gs', knobs=dict(nf=4))
    weights.save_weights(tmp_path/'weights'/'DiCNN1-4b-r4.safetensors', build('DiCNN1', 4, nf=4), card)
    settings.say_once.cache_clear()
    return tmp_path/'weights'

def test_what_goes_before_the_shipped_is_said_once(mine, recwarn):
    for _ in range(3): assert weights.file_of('DiCNN1', 4).parent==mine
    weights.file_of('PanNet', 4)
    weights.label('DiCNN1', 4)
    assert [str(w.message) for w in recwarn]==['files in weights go before the weights that ship: DiCNN1-4b-r4']

def test_weights_of_a_stranger_are_not_taken(mine, recwarn, monkeypatch):
    monkeypatch.setattr(settings, '_users', lambda: {mine.stat().st_uid+1})
    for _ in range(3): assert weights.file_of('DiCNN1', 4).parent!=mine
    said, = [str(w.message) for w in recwarn]
    assert str(mine) in said and 'another user' in said
    monkeypatch.setenv('PANSHARP_NB_ROOT', str(mine.parent)) # named by the user
    assert weights.file_of('DiCNN1', 4).parent==mine
