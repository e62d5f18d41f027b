"""`manage.py translations [--check]`: brings the catalogues of the pages up to date."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = (
        "Write the catalogues of translations (.po, and the .mo that Django reads) from the "
        "sources; --check: fail if they are not up to date or something is not translated."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true")

    def handle(self, *args: Any, check: bool = False, **options: Any) -> None:
        try:
            from accounts import translations  # Babel is there for those who work on the server
        except ImportError as error:
            raise CommandError("This needs Babel: pip install -r requirements-dev.txt") from error
        problems = []
        for app in translations.APPS:
            catalogue = translations.updated(app)
            path = translations.catalogue_path(app)
            if not len(catalogue) and not path.exists():
                continue
            po, mo = translations.po_bytes(catalogue), translations.mo_bytes(catalogue)
            for file, fresh in ((path, po), (path.with_suffix(".mo"), mo)):
                if file.exists() and file.read_bytes() == fresh:
                    continue
                if check:
                    problems.append(f"{app}: {file.name} is not up to date.")
                else:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(fresh)
            problems += [
                f"{app}: not translated: {text!r}" for text in translations.untranslated(catalogue)
            ]
        if check and problems:
            raise CommandError("\n".join([*problems, "Run 'python manage.py translations'."]))
        for problem in problems:
            self.stderr.write(problem)
