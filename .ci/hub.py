"""Every notebook can be opened on Colab or a hub: its second cell fetches and installs the project where it is missing.

    python .ci/hub.py           put the cell into every notebook, and give each the same kernel
    python .ci/hub.py --check   change nothing; say what differs, exit status 1 if anything does

The cell is cheap where the package is installed: one import. README.md's maker calls this, too.
"""
import argparse, json, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNEL = dict(display_name='python3', language='python', name='python3')
MARK = '# on Colab or a hub'

def wanted(p):
    "The source of the cell for the notebook `p`"
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    repo, url = cfg['DEFAULT']['repo'], cfg['DEFAULT']['git_url']
    folder = p.parent.relative_to(ROOT).as_posix()
    up = '/'.join('..' for _ in folder.split('/'))
    return f'''#| hide
{MARK}: fetch and install the project, where it is not installed yet
try: import messi_anything
except ImportError:
    !git clone -q --depth 1 {url}
    %cd -q {repo}/{folder}
    %pip install -q "{up}[dev]"'''

def notebooks(): return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(ROOT).parts))

def changed(p):
    "The notebook `p` with its cell and kernel, or None where it has both"
    nb = json.loads(p.read_text(encoding='utf-8'))
    cell = dict(cell_type='code', execution_count=None, id='fe7c4ed0', metadata={}, outputs=[], source=wanted(p).splitlines(keepends=True))
    rest = [o for o in nb['cells'] if MARK not in ''.join(o['source'])]
    there = [''.join(o['source']) for o in nb['cells'][1:2]] == [wanted(p)]
    if there and len(rest) == len(nb['cells'])-1 and nb['metadata'].get('kernelspec') == KERNEL: return None
    nb['cells'] = [*rest[:1], cell, *rest[1:]]
    nb['metadata']['kernelspec'] = KERNEL
    return json.dumps(nb, indent=1, ensure_ascii=False)+'\n'

def put():
    "Change what has to be; the notebooks that were"
    out = []
    for p in notebooks():
        if (new := changed(p)) is None: continue
        p.write_text(new, encoding='utf-8')
        out.append(p.name)
    return out

def differences(): return [f'{p.name}: its second cell or its kernel is not what .ci/hub.py gives' for p in notebooks() if changed(p)]

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--check', action='store_true', help='compare only')
    if not ap.parse_args().check: print(f'{len(put())} notebooks changed')
    elif bad := differences(): sys.exit('\n'.join([*bad, 'run: python .ci/hub.py']))

if __name__ == '__main__': main()
