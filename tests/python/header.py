"""What the binding says about the C ABI is what the header says: a wrong field would be read without a word."""

import ctypes
import os
import re
import unittest

import latent_worker as lw

# What the binding leaves out: events come from a queue, over which a thread of Python can iterate.
LEFT_OUT = {"lw_master_observe", "lw_observer_free"}
HEADER = os.path.join(os.path.dirname(__file__), "..", "..", "include", "latent_worker.h")
NUMBERS = {
    "size_t": ctypes.c_size_t, "int": ctypes.c_int, "bool": ctypes.c_bool, "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64, "lw_exit": ctypes.c_int32,
    "double": ctypes.c_double,
}


def is_pointer(kind):
    return isinstance(kind, type) and not issubclass(kind, ctypes.Structure) and hasattr(kind, "contents") or kind in (
        ctypes.c_char_p, ctypes.c_void_p
    ) or issubclass(kind, ctypes._CFuncPtr)


def fits(declared, kind):
    """Whether a type of ctypes is as large and of the same kind as what C declares."""
    if "*" in declared:
        return is_pointer(kind)
    return NUMBERS[declared.replace("struct ", "").strip()] is kind


class Header(unittest.TestCase):
    def setUp(self):
        with open(HEADER, encoding="utf-8") as file:
            self.text = re.sub(r"//.*|/\*(?:.|\n)*?\*/", "", file.read())

    def test_structures_have_its_fields(self):
        structures = dict(re.findall(r"typedef struct (lw_\w+) \{(.*?)\n\} \1;", self.text, re.S))
        ours = [kind for kind in vars(lw).values() if isinstance(kind, type) and issubclass(kind, ctypes.Structure)]
        compared = 0
        for kind in ours:
            name = "lw" + re.sub(r"([A-Z])", lambda match: "_" + match.group().lower(), kind.__name__.lstrip("_"))
            if kind.__name__ in ("Structure", "_Sized"):
                continue
            fields = []
            for field in structures[name].split(";")[:-1]:
                callback = re.fullmatch(r"\s*.*\(\*(\w+)\)\(.*\)", field, re.S)
                plain = re.fullmatch(r"\s*(.*?)(\w+)", field, re.S)
                fields.append((callback.group(1), "*") if callback else (plain.group(2), plain.group(1)))
            with self.subTest(name):
                self.assertEqual([field for field, _ in fields], [field for field, _ in kind._fields_])
                for (field, declared), (_, used) in zip(fields, kind._fields_):
                    self.assertTrue(fits(declared, used), f"{field}: {declared}, {used}")
                compared += 1
        self.assertGreater(compared, 15)

    def test_functions_have_its_arguments(self):
        functions = dict(re.findall(r"\nlw_code (lw_\w+)\((.*?)\);", self.text, re.S))
        self.assertGreater(len(functions), 50)
        self.assertEqual(set(functions) - set(lw._FUNCTIONS), LEFT_OUT)
        for name, used in lw._FUNCTIONS.items():
            declared = [re.sub(r"\w+$", "", argument.strip()) for argument in functions[name].split(",")]
            with self.subTest(name):
                self.assertEqual(len(declared), len(used))
                for one, other in zip(declared, used):
                    self.assertTrue(fits(one, other), f"{one}, {other}")

    def test_handles_have_a_function_to_free_them(self):
        kinds = set(re.findall(r"\ntypedef struct (lw_\w+) \1;", self.text))
        freed = set(re.findall(r"\nlw_code (lw_\w+)_free\(struct \1 \*", self.text))
        self.assertGreater(len(freed), 5)
        self.assertEqual(kinds - freed, {"lw_start", "lw_stop", "lw_reclaim", "lw_process"})

    def test_codes_have_its_numbers(self):
        codes = {name: int(number) for name, number in re.findall(r"LW_ERROR_(\w+) = (\d+)", self.text)}
        wanted = {
            "FORKED": lw.Forked, "TIMEOUT": lw.TimedOut, "UNSUPPORTED": lw.Unsupported, "CANCELLED": lw.Cancelled,
            "SHUT_DOWN": lw.ShutDown, "NO_WORKER_FITS": lw.BuildFailed, "CANNOT_SUBSTANTIATE": lw.CannotSubstantiate,
            "ATTEMPTS_EXHAUSTED": lw.BuildFailed, "ENDED": lw.Ended, "LEASE_LOST": lw.LeaseEnded,
            "LEASE_STOPPED": lw.LeaseEnded, "HURRIED": lw.Hurried,
        }
        self.assertEqual({codes[name]: kind for name, kind in wanted.items()}, lw._ERRORS)
        answers = {name: int(number) for name, number in re.findall(r"LW_ANSWER_(\w+) = (\d+)", self.text)}
        causes = {"infrastructure": "FAILED", "capacity": "NO_CAPACITY", "quota": "NO_QUOTA", "throttled": "THROTTLED"}
        causes["credentials"] = "BAD_CREDENTIALS"
        self.assertEqual({cause: answers[name] for cause, name in causes.items()}, lw._ANSWERS)
        exits = {name: int(number) for name, number in re.findall(r"LW_EXIT_(\w+) = (\d+)", self.text)}
        self.assertEqual(exits, {name: int(value) for name, value in lw.Exit.__members__.items()})
        self.assertIn(f"#define LW_ABI_VERSION {lw.ABI_VERSION}\n", self.text)


if __name__ == "__main__":
    unittest.main()
