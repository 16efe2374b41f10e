"""environment.yml says for conda what settings.ini says for pip: this makes it.

    python .ci/environment.py           write environment.yml
    python .ci/environment.py --check   change nothing; exit status 1 if it differs
"""
import argparse, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ('studio', 'serve') # what a hub's user wants besides

def environment():
    "The text of environment.yml"
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    cfg = parser['DEFAULT']
    needs = cfg['requirements'].split()
    for o in EXTRAS: needs += [r for r in cfg[f'{o}_requirements'].split() if r not in needs]
    lines = ['# Made from settings.ini by .ci/environment.py: edit that, not this.', f"name: {cfg['lib_name']}",
             'channels: [conda-forge]', 'dependencies:', f"  - python>={cfg['min_python']},<3.14", '  - pip', '  - pip:']
    return '\n'.join([*lines, *(f'      - {r}' for r in needs), '      - -e .', ''])

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true')
    path = ROOT/'environment.yml'
    if not parser.parse_args().check: path.write_text(environment(), encoding='utf-8')
    elif not path.exists() or path.read_text(encoding='utf-8') != environment():
        sys.exit('environment.yml is not what settings.ini gives: run python .ci/environment.py')

if __name__ == '__main__': main()
