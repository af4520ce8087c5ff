"""Messages as mail, by the standard library, in a thread."""

import smtplib
import ssl
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final

from orchestrator.model.notify import Mailbox
from orchestrator.model.text import cut, visible
from orchestrator.notify.base import Message, SendError

SECONDS: Final = 15.0
_LONGEST_SUBJECT: Final = 200
_PERMANENT: Final = 500


def compose(target: Mailbox, message: Message) -> EmailMessage:
    """Write a message as mail; nothing in its texts can become a header."""
    mail = EmailMessage()
    mail["From"] = target.sender
    mail["To"] = ", ".join(dict.fromkeys((*target.to, *([message.owner] if message.owner else []))))
    mail["Subject"] = cut(visible(message.title, ""), _LONGEST_SUBJECT)
    mail["Date"] = formatdate()
    # The same with each try, so that a mail that came after all is known by it.
    domain = target.sender.partition("@")[2]
    mail["Message-ID"] = f"<{message.id}@{domain}>" if message.id else make_msgid(domain=domain)
    mail["Auto-Submitted"] = "auto-generated"
    links = "\n".join(f"{link.label}: {link.url}" for link in message.links)
    mail.set_content("\n\n".join(filter(None, (visible(message.text), links))) + "\n")
    return mail


def post(target: Mailbox, message: Message, password: str) -> None:
    """Hand a mail to its server; blocks.

    Raises:
        SendError: The server did not take it for all who should get it.
    """
    host, port = target.server
    mail = compose(target, message)
    try:
        # Not `with`: its end raises where a server says goodbye oddly, after it took the mail.
        server = _connect(target, host, port)
        try:
            if target.user is not None:
                _ = server.login(target.user, password)
            refused = server.send_message(mail)
            with suppress(OSError, smtplib.SMTPException):
                _ = server.quit()
        finally:
            server.close()
    except smtplib.SMTPAuthenticationError:
        raise SendError("it does not accept the login", is_final=True) from None
    except smtplib.SMTPNotSupportedError:
        raise SendError(
            "it does not do what is asked of it (TLS, a login)", is_final=True
        ) from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        is_final = all(code >= _PERMANENT for code in codes)
        raise SendError("it takes no mail for these addresses", is_final=is_final) from None
    except smtplib.SMTPResponseException as error:
        is_final = error.smtp_code >= _PERMANENT
        raise SendError(f"it answered with {error.smtp_code}", is_final=is_final) from None
    except ssl.SSLCertVerificationError:
        raise SendError("its certificate is not accepted") from None
    except (OSError, smtplib.SMTPException) as error:
        raise SendError(f"it cannot be reached ({type(error).__name__})") from None
    if refused:
        raise SendError("it took the mail, but not for all addresses", is_final=True)


def _connect(target: Mailbox, host: str, port: int) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if target.security == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=context)
    server = smtplib.SMTP(host, port, timeout=SECONDS)
    if target.security == "starttls":
        try:
            _ = server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server
