# Makes the virtual environment .venv with the package in it; sourced by the other scripts.
#
#   source scripts/environment.sh
#   make_environment         # the package
#   make_environment test    # and what its tests need
#
# An environment that was made before is used again while pyproject.toml, the place of the checkout and
# Python are the same. PYTHON names another Python than the first suitable one.

# Prints the first Python that is new enough; one that is named must be.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: ${PYTHON:-python3} is not Python 3.11 or newer; name one: PYTHON=/path/to/python3.12 bash $0" >&2
    return 1
}

make_environment() {
    local extra=${1:-} python wanted stamp=.venv/made-for
    python=$(find_python)
    wanted="$("$python" -VV) $PWD $(cksum pyproject.toml)"
    if [[ ! -f $stamp || $(head -n 1 $stamp) != "$wanted" ]]; then
        echo "Making .venv with $("$python" -V)"
        if ! "$python" -m venv --clear .venv; then
            echo "error: $python -m venv failed; on Debian and Ubuntu, install python3-venv" >&2
            return 1
        fi
        install_package "$extra"
        printf '%s\n' "$wanted" "+$extra" >$stamp
    elif ! grep -qx -- "+$extra" $stamp; then
        install_package "$extra"
        echo "+$extra" >>$stamp
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}

# Editable, so that a changed source needs no new installation.
install_package() {
    echo "Installing daskmeans and what it needs (a minute or two)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
}
