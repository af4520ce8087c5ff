"""Where a project keeps what: one place for every file name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of one project.

    Attributes:
        root: The project directory.
        state: What survives a restart; private.
        run: Sockets and FIFOs of what runs now; private, short enough for a unix socket.
    """

    root: Path
    state: Path
    run: Path

    @property
    def database(self) -> Path:
        """Tokens."""
        return self.state / "agents.db"

    @property
    def control_state(self) -> Path:
        """What the control plane has to know after a crash."""
        return self.state / "control.json"

    @property
    def lock(self) -> Path:
        """Held by whoever may write the state: the daemon, or a command while there is none."""
        return self.state / "agents.lock"

    @property
    def tokens(self) -> Path:
        """The workstation's own tokens, one file a role."""
        return self.state / "tokens"

    @property
    def pins(self) -> Path:
        """Tool definitions as they were accepted, one file a role and server."""
        return self.state / "pins"

    @property
    def seal_key(self) -> Path:
        """Seals what callers keep for the gateway."""
        return self.state / "keys" / "gateway.key"

    @property
    def vault(self) -> Path:
        """Credentials that issuers made, encrypted."""
        return self.state / "vault"

    @property
    def vault_key(self) -> Path:
        """Opens them, unless the key is kept elsewhere."""
        return self.state / "keys" / "vault.key"

    @property
    def fingerprint_key(self) -> Path:
        """Marks values of secrets, so that two can be told to be the same."""
        return self.state / "keys" / "fingerprint.key"

    @property
    def link_key(self) -> Path:
        """Signs links to approvals."""
        return self.state / "keys" / "links.key"

    @property
    def sessions(self) -> Path:
        """What changed in callers' sessions after they were opened."""
        return self.state / "sessions"

    @property
    def sums(self) -> Path:
        """What calls have added up to."""
        return self.state / "sums"

    @property
    def logs(self) -> Path:
        """Logs of the daemon and of every role's instance."""
        return self.state / "logs"

    @property
    def daemon_log(self) -> Path:
        """The daemon's structured log."""
        return self.logs / "agentsd.log"

    @property
    def audit(self) -> Path:
        """The record of calls and decisions."""
        return self.state / "audit"

    @property
    def audit_key(self) -> Path:
        """Signs the record."""
        return self.state / "keys" / "audit.key"

    @property
    def incidents(self) -> Path:
        """What was put together for whoever looks into an incident, one directory each."""
        return self.state / "incidents"

    @property
    def control_socket(self) -> Path:
        """Where the daemon takes orders."""
        return self.run / "control.sock"

    def log_of(self, role: str) -> Path:
        """What a role's instance writes to stderr."""
        return self.logs / f"{role}.log"

    def home_of(self, role: str) -> Path:
        """The private home of a role's instance."""
        return self.state / "homes" / role

    def temporary_of(self, role: str) -> Path:
        """The private directory for temporary files of a role's instance."""
        return self.state / "tmp" / role
