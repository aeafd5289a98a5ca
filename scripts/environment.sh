# Makes .venv and installs into it; sourced by quickstart.sh and run_tests.sh.

# make_environment EXTRA...: the project with these extras of pyproject.toml
make_environment() {
    local extras stamp
    extras=$(IFS=,; echo "$*")
    stamp=.venv/installed-$extras-$(cat requirements.txt pyproject.toml | cksum | cut -d' ' -f1)
    if [ -e "$stamp" ]; then return; fi
    echo "== install into .venv ($extras)"
    if [ ! -x .venv/bin/python ]; then
        "${BASE_PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "error: Python 3.11 or later is needed; name one: BASE_PYTHON=python3.11 $0" >&2
            exit 2
        }
        "${BASE_PYTHON:-python3}" -m venv .venv
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
    touch "$stamp"
}
