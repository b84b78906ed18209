"""A contract for import-linter, whose own ones know no subpackages of packages that others made."""

from __future__ import annotations

from typing import Any

from importlinter import Contract, ContractCheck, fields, output


class OnlyImportersContract(Contract):  # type: ignore[misc]  # import-linter's classes are Any
    """Of a package, only some modules may import some packages, whoever made these.

    Options: `package`; `modules`, those that are imported; `importers`, the modules of the package
    that may import them, and what is below them (but the package itself says nothing for the rest).
    An import in a function or below TYPE_CHECKING counts too.
    """

    type_name = "only_importers"

    package = fields.StringField()
    modules = fields.SetField(subfield=fields.StringField())
    importers = fields.SetField(subfield=fields.StringField())

    def check(self, graph: Any, verbose: bool) -> ContractCheck:
        # import-linter replaces the fields by their values.
        modules: Any = self.modules
        importers: Any = self.importers
        below = tuple(f"{importer}." for importer in importers - {self.package})
        found = [
            detail
            for module in sorted(modules & graph.modules)
            for importer in sorted(graph.find_modules_that_directly_import(module))
            if f"{importer}.".startswith(f"{self.package}.")
            if importer not in importers and not importer.startswith(below)
            for detail in graph.get_import_details(importer=importer, imported=module)
        ]
        return ContractCheck(kept=not found, metadata={"imports": found})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for one in check.metadata["imports"]:
            line = f"- {one['importer']} -> {one['imported']} (l. {one['line_number']})"
            output.print_error(line, bold=False)
