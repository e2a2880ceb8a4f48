"Made-up data in the layout of NBU and PanCollection: written, found, and trained on by the papers' recipes."
from dataclasses import replace
import h5py, numpy as np, pandas as pd, pytest
from pansharp_nb import recipes, training
from pansharp_nb.cli import main
from pansharp_nb.data.patches import grounds
from pansharp_nb.data.rehearsal import gigabytes, layouts, rehearse
from pansharp_nb.data.scenes import nbu_split, open_scene
from pansharp_nb.settings import root

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    d = tmp_path_factory.mktemp('rehearsal')
    return rehearse('NBU-GF1', d/'NBU', 6), rehearse('PanCollection-WV3', d/'WV3', 6)

def test_the_files_are_those_of_the_collections(data):
    nbu,stacks = data
    assert sorted(p.name for p in (nbu/'MS_256').iterdir())==sorted(p.name for p in (nbu/'PAN_1024').iterdir())
    ds = open_scene(nbu)
    assert ds.sensor=='GF1' and ds.ms.shape==(4, 256, 256) and ds.pan.shape==(1024, 1024) and 'gt' not in ds
    with h5py.File(stacks/'train_wv3.h5') as f:
        assert {k: (v.shape, v.dtype) for k,v in f.items()}=={k: (s, np.dtype('f8')) for k,s in
            dict(ms=(6, 8, 16, 16), lms=(6, 8, 64, 64), pan=(6, 1, 64, 64), gt=(6, 8, 64, 64)).items()}
    with h5py.File(stacks/'test_wv3_OrigScale_multiExm1.h5') as f: assert set(f)=={'ms', 'lms', 'pan'} and f['pan'].shape==(6, 1, 512, 512)

def test_the_size_said_is_the_size_written(data, monkeypatch):
    nbu,stacks = data
    for n,at in zip(('NBU-GF1', 'PanCollection-WV3'), data):
        monkeypatch.setitem(layouts, n, layouts[n]._replace(samples=6, valid=2))
        said,wrote = gigabytes(n),sum(f.stat().st_size for f in at.rglob('*.*'))/1e9
        if n.startswith('Pan'): said -= 8*14*((2*8*256**2+8*64**2+256**2)+(8*512**2+8*128**2+512**2))/1e9 # 6 tests, not 20
        assert abs(said/wrote-1)<.01

def test_same_seed_same_images(tmp_path):
    a,b,c = (open_scene(rehearse('NBU-IKONOS', tmp_path/n, 1, seed=s)) for n,s in (('a', 1), ('b', 1), ('c', 2)))
    assert (a.pan==b.pan).all() and (a.ms==b.ms).all() and (a.pan!=c.pan).any()

def test_the_split_is_the_papers(data):
    nbu,stacks = data
    assert [g.index for g in grounds(nbu)]==nbu_split(6)['train'] and len(grounds(stacks, 8))==6

@pytest.mark.parametrize('model, which, bands', [('PreMix-B', 0, 4), ('DCFNet', 1, 8)])
def test_a_paper_recipe_trains_on_it(data, tmp_path, model, which, bands):
    q = replace(recipes.recipe(model, 'paper', bands=bands), epochs=0, steps=1, batch=1, patch=32)
    quiet = dict(accelerator='cpu', devices=1, progress=False, validate=False)
    net,found,clock = training.train(model, q, data[which], tmp_path/'run', **quiet)
    assert found.steps==1 and clock.seconds>0

def test_the_command(tmp_path, capsys):
    assert main(['data', 'rehearse', 'NBU-QB', str(tmp_path), '--samples', '1'])==0
    assert (tmp_path/'2 QuickBird'/'MS_256'/'1.mat').exists()
    assert main(['data', 'rehearse', 'NBU-XX', str(tmp_path)])==2
    assert 'choose NBU-IKONOS' in capsys.readouterr().err

def test_the_numbers_of_the_rehearsal():
    "One row per network of the five papers, by the recipe that ships."
    t = pd.read_csv(root()/'data'/'rehearsal.csv').set_index('network')
    assert {'PreMix-B', 'PreMix-H', 'MFMIF-Net', 'DCFNet', 'SIDP'}<=set(t.index)
    for n,m in t.iterrows():
        q = recipes.recipe(n, 'paper')
        assert (m.epochs, m.batch, m.patch)==(q.epochs, q.batch, q.patch) and m.run_steps>=2 and m.kept_GB_per_step>.1
