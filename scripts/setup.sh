# Sourced by the scripts beside it: makes .venv hold exactly what uv.lock names.
#
# usage: prepare GROUP...     (GROUP: run, test, check)
# Needs Python 3.11 or newer; takes uv where it is installed, else brings it into the environment
# by pip; where only pip reaches a package index, pip installs by pyproject.toml alone.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "scripts: no Python 3.11 or newer was found; install one, or set PYTHON to its path."
  exit 2
}

# One line that changes whenever the environment has to be made again.
fingerprint() { cat "$root/pyproject.toml" "$root/uv.lock" | sha256sum | cut -d' ' -f1; }

prepare() {
  local stamp="$venv/.prepared" want have group
  want="$(fingerprint)"
  have="$(cat "$stamp" 2>/dev/null || true)"
  for group in "$@"; do
    case "$have" in "$want"*" $group "*) ;; *) install_groups "$want" "$@"; return ;; esac
  done
}

install_groups() {
  local want="$1" earlier; shift
  # Groups that an earlier script brought stay, so that no script undoes another's work.
  earlier="$(cat "$venv/.prepared" 2>/dev/null || true)"
  case "$earlier" in "$want "*) set -- $(printf '%s\n' ${earlier#"$want "} "$@" | sort -u) ;; esac
  exec 9>"$venv.lock"
  if command -v flock >/dev/null 2>&1; then flock 9; fi
  local python uv group arguments=(--frozen --extra wallet --compile-bytecode --no-default-groups)
  for group in "$@"; do [ "$group" = run ] || arguments+=(--group "$group"); done
  arguments+=(--inexact ${editable:-})
  say "Setting up $venv (once; again when uv.lock changes) ..."
  python="$(find_python)"
  uv="$(command -v uv || true)"
  if [ -z "$uv" ] && [ ! -x "$venv/bin/pip" ]; then
    "$python" -m venv "$venv" || {
      say "scripts: $python cannot make a virtual environment; install its venv module (Debian: apt-get install python3-venv)."
      exit 2
    }
  fi
  # An environment that is there keeps its interpreter: naming another would make uv start over.
  [ -x "$venv/bin/python" ] || arguments+=(--python "$python")
  if [ -z "$uv" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv >&2 && uv="$venv/bin/uv"
  fi
  if [ -n "$uv" ] && (cd "$root" && UV_PROJECT_ENVIRONMENT="$venv" "$uv" sync --quiet "${arguments[@]}" >&2); then
    :
  elif [ -x "$venv/bin/pip" ]; then
    say "scripts: uv could not install from its index; trying pip, without the lock."
    local extras=()
    for group in "$@"; do [ "$group" = run ] || extras+=(--group "$root/pyproject.toml:$group"); done
    # Groups came with pip 25.1.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root[wallet]" "${extras[@]}" >&2
  else
    say "scripts: uv could not install the packages; see its message above."
    exit 2
  fi
  # The first start would compile them otherwise, and where nothing may be written every start.
  "$venv/bin/python" -I -m compileall -q "$root/orchestrator" "$root/walletserver" >&2 || true
  printf '%s %s \n' "$want" "$*" >"$venv/.prepared"
  exec 9>&-
}
