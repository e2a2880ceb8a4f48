"Weights that ship: every file loads without pickle, is what its card says, and fuses better than interpolation."
import pytest, torch
from pathlib import Path
import pansharp_nb
from pansharp_nb import weights
from pansharp_nb.data.scaling import scale_of
from pansharp_nb.data.scenes import to_tensors
from pansharp_nb.data.synthetic import made_up
from pansharp_nb.metrics.reference import psnr
from pansharp_nb.models.networks import as_method, build, five
from pansharp_nb.scoring import method

shipped = sorted((Path(pansharp_nb.__file__).parent/'trained').glob('*.safetensors'))
each = pytest.mark.parametrize('file', shipped, ids=lambda f: f.stem)
facts = {'name', 'bands', 'ratio', 'scaling', 'knobs', 'recipe', 'words', 'steps', 'seed', 'minutes', 'machine', 'validation', 'data', 'test', 'commit', 'sha256', 'dtype', 'half_costs_db'}

@each
def test_card(file):
    card = weights.card_of(file)
    assert facts<=set(card) and all(len(d)==2 and all(d) for d in card['data'])
    assert card['dtype']=='float32' or card['half_costs_db']<.01
    assert not {n for n,_ in card['data']} & {'IKONOS_imgIK', 'GF2rr_psdata3_tr4', 'QBrr_psdata_test', 'SPOT6_cropland', 'WV2_SN6_rotterdam3', 'GF2_psdata3_fullstrip'}

@each
def test_fuses_a_camera_it_never_saw(file):
    "A made-up scene: no scene of this kind, and for 4 bands no scene of this sensor, was in any training."
    net,card = weights.load(file)
    if card['ratio']!=4: pytest.skip('ratio')
    cam = 'WV3' if card['bands']==8 else 'IKONOS'
    ds = made_up(cam, size=128, seed=3)
    ms,pan,gt = to_tensors(ds)
    x = weights.shipped(net, card)(ms, pan, cam)
    assert psnr(x, gt)>psnr(method('EXP')(ms, pan, cam), gt)

def test_what_ships():
    names = {f.stem.rsplit('-', 2)[0] for f in shipped}
    assert set(five)<=names and len(names-set(five))>=10
    assert sum(f.stat().st_size for f in shipped)<40e6

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

def test_damaged_weights_are_one_clear_error(tmp_path):
    f = tmp_path/'DiCNN1-4b-r4.safetensors'
    weights.save_weights(f, build('DiCNN1', 4), dict(name='DiCNN1', bands=4, ratio=4, scaling='gs', knobs={}))
    f.write_bytes(f.read_bytes()[:-100])
    weights.load.cache_clear()
    with pytest.raises(ValueError, match='damaged'): weights.load(f)
    f.with_suffix('.json').write_text('{')
    with pytest.raises(ValueError, match='cannot be read'): weights.load(f)

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
