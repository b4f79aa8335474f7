"""What calls into torch, numpy and Python's own library do to the values of `flow_engine.py`. Names here are those of
the libraries; what a submission calls its own things never matters."""

from __future__ import annotations

import ast
import itertools
import math

from harness.compliance import native
from harness.compliance.flow_gates import BETTER_KEPT, logarithmic_weights
from harness.compliance.flow_values import (
    BYTES,
    CHOSEN,
    COMPUTED,
    COUNTS,
    EACH,
    EMPTY,
    GENERATED,
    GRADIENT,
    GRAM,
    HOT,
    LOSS,
    MODEL,
    NAMES,
    NAMES_TRAIN,
    NAMES_VAL,
    NATIVE,
    NONE,
    NUMBERED,
    OF_ONE,
    ORIGINS,
    RANK,
    SEEN,
    TARGET,
    TIME,
    TOKENS,
    TRAIN,
    UNKNOWN,
    VAL,
    VOCABULARY,
    Object,
    Step,
    Value,
    apart,
    flat,
    join,
    join_all,
    loops_of,
    tagged,
    united,
)
from harness.compliance.program import MODULE_LOADERS
from harness.compliance.renewal import emptied

words = lambda text: frozenset(text.split())  # noqa: E731

MODULE_METHODS = words(
    "to cuda cpu float half double bfloat16 type eval train compile share_memory apply requires_grad_ zero_grad "
    "parameters named_parameters modules named_modules children named_children buffers named_buffers state_dict "
    "load_state_dict register_forward_hook register_forward_pre_hook register_full_backward_hook register_buffer "
    "register_parameter add_module get_parameter get_submodule no_sync numel size dim element_size items keys values "
    "append extend insert data_ptr"
)
PARTS_OF_A_MODEL = {  # method -> what it gives, and whether with names
    "parameters": ("parameter", False),
    "buffers": ("parameter", False),
    "named_parameters": ("parameter", True),
    "named_buffers": ("parameter", True),
    "modules": ("module", False),
    "children": ("module", False),
    "named_modules": ("module", True),
    "named_children": ("module", True),
}
EMPTIES = words("clear fill fill_ zero_")  # a table, with nothing or with 0
OPTIMIZER_METHODS = words("step zero_grad state_dict load_state_dict add_param_group")
SIZES = words(
    "shape ndim size dtype device numel dim nbytes itemsize is_cuda requires_grad ndimension stride element_size "
    "data_ptr is_contiguous nelement get_device names name suffix stem parent"
)
SAME = words(  # methods that change neither the elements nor which state they are of
    "to cuda cpu numpy astype reshape view contiguous detach long int float double half bfloat16 short flatten ravel "
    "squeeze unsqueeze expand expand_as repeat transpose permute t T mT tolist item pin_memory requires_grad_ type "
    "eval train share_memory_ narrow chunk split unfold flip repeat_interleave tile swapaxes view_as type_as unbind "
    "masked_fill masked_fill_ clamp clamp_ clamp_min clamp_max clip nan_to_num result get_lr as_strided movedim "
    "resolve absolute expanduser joinpath with_name numpy_ compile apply share_memory squeeze_ unsqueeze_ int32 int64 "
    "iterdir rglob glob unflatten uint8 byte char bool diagonal select index_select_ roll data_as"
)
COPIES = words("clone copy deepcopy __copy__ __deepcopy__ cpu")
ALLOCATES = words(
    "zeros empty full ones zeros_like empty_like ones_like full_like new_zeros new_empty new_full new_ones zeros_ eye "
    "empty_strided"
)
INTEGERS = words("randint randperm integers randrange")
RANDOM = words(
    "randint rand randn random randperm normal choice choices sample randrange random_sample integers uniform "
    "rand_like randn_like randint_like standard_normal"
)
LOSSES = words("cross_entropy nll_loss linear_cross_entropy CrossEntropyLoss NLLLoss kl_div")
MINUS = words("add_ sub_ mul_ div_ addcmul_ addcdiv_ lerp_ copy_ axpy_ addmm_ baddbmm_ addmv_ addr_ foreach_add_ set_")
FRESH = words(
    "zero_ fill_ normal_ uniform_ kaiming_uniform_ xavier_uniform_ orthogonal_ constant_ zeros_ ones_ trunc_normal_"
)
HASHES = words("hash crc32 adler32 md5 sha1 sha256 blake2b blake2s fnv1a xxh64 xxh32 bitwise_and remainder fmod mod")
READERS = words(
    "fromfile memmap load read_bytes read_text from_file read_table loadtxt open_memmap mmap frombuffer_file"
)
STACKS = words("stack column_stack dstack")  # put things of one shape side by side
JOINS = words("cat concatenate concat hstack vstack")
SAVERS = frozenset(
    {"torch.save", "pickle.dump", "pickle.dumps", "safetensors.torch.save_file", "safetensors.torch.save"}
)
NATIVE_CODE = native.LIBRARIES | native.COMPILERS
PURE_LIBRARIES = words("torch numpy mlx jax math functools itertools operator scipy builtins einops collections")
CLOCKS = words(
    "time.perf_counter time.time time.monotonic time.perf_counter_ns time.time_ns time.monotonic_ns time.process_time"
)
NUMBERS = words("len isinstance issubclass hasattr callable type id range print repr dir vars bool any all")
DIVISIONS = words("div divide true_divide floor_divide div_")
SUMS = words("sum mean nansum nanmean fsum average prod norm count_nonzero")
MIDDLES = words("median nanmedian quantile nanquantile percentile nanpercentile std var kthvalue")
EXTREMES = words("min max minimum maximum fmin fmax amin amax nanmin nanmax")
XORS = words("bitwise_xor logical_xor")
SCATTERS = words("scatter scatter_add scatter_reduce index_add index_copy index_fill")
GATHERS = {  # of torch.distributed: where the place is that is written to, and where what is sent
    "all_gather": ("tensor_list", 0, "tensor", 1),
    "all_gather_object": ("object_list", 0, "obj", 1),
    "all_gather_into_tensor": ("output_tensor", 0, "input_tensor", 1),
    "gather": ("gather_list", 1, "tensor", 0),
    "gather_object": ("object_gather_list", 1, "obj", 0),
}
EXPONENTIALS = words("exp exp2 expm1 logaddexp logaddexp2 logsumexp")
POWERS = words("pow power float_power")
RETURNS_ARGUMENT = words(  # functions that give back what they are given, or what holds it
    "compile DistributedDataParallel DataParallel DDP FSDP FullyShardedDataParallel script trace wraps lru_cache cache "
    "tensor as_tensor from_numpy asarray array ascontiguousarray list tuple sorted reversed set frozenset iter "
    "Tensor LongTensor IntTensor FloatTensor cat concatenate stack hstack vstack concat Path PurePath str fspath "
    "abspath expanduser realpath int float round abs unwrap_model cast deque OrderedDict islice chain tqdm min max "
    "narrow flatten reshape squeeze unsqueeze maximum minimum clip clamp where nan_to_num broadcast_to expand_dims "
    "transpose split chunk array_split roll contiguous to_device uint16 uint32 uint64 int8 int16 int32 int64 uint8 "
    "float32 float64 float16 bfloat16 checkpoint unbind pad repeat tile intp frombuffer BytesIO decompress bytes "
    "column_stack dstack Parameter_ from_iterable cycle functional_call disable allow_in_graph asnumpy "
    "make_graphed_callables"
)


def attribute_of_data(engine, base, name, node, scope) -> Value:
    """An attribute of an array, a container or something unknown."""
    if name in SIZES:
        return Value(base.labels & NAMES)
    if name == "grad":
        gradient = engine.gradient
        if any(ref.kind in ("array", "module") for ref in base.refs) or base.labels:
            return Value(gradient.labels & COMPUTED | GRADIENT, tags=gradient.tags, step=gradient.step)
        return EMPTY
    if name == "param_groups":
        return Value(refs=base.refs)
    return base if base.refs or base.labels or base.items else EMPTY


def derived(engine, values, node=None, scope=None, labels=0, drop=0) -> Value:
    """Computed from values: what they hold, but not the objects themselves."""
    result = EMPTY
    for value in values:
        content = engine.content(value)
        if content.refs or content.constant is not UNKNOWN:
            content = Value(content.labels, NONE, UNKNOWN, None, content.tags, content.lossy, content.step)
        result = join(result, content)
    if labels | drop:
        kept = result.labels & ~drop | labels
        result = Value(kept, NONE, UNKNOWN, None, result.tags, result.lossy, result.step)
    return result


def allocated(engine, arguments, keywords, node, scope) -> Value:
    grad = keywords.get("requires_grad")
    kind = "parameter" if grad is not None and grad.constant is True else "array"
    ref = engine.allocate(kind, node, scope)
    return ref.value


def snapshot(engine, value, node, scope) -> Value:
    """A copy of weights, as they are now."""
    refs = set()
    for ref in value.refs:
        if ref.kind in {"module", "parameter", "snapshot"}:
            whole = ref.kind == "module" and isinstance(ref.extra, Object) and _last(node) in ("deepcopy", "copy")
            copy = engine.allocate("module" if whole else "snapshot", node, scope, f"copy of {id(ref)}")
            copy.extra = ref.extra if whole else None
            engine.emit("snapshot", node, scope, value, (copy,), frozenset((ref.root,)))
            refs.add(copy)
        elif ref.kind == "container" and any(one.kind in ("module", "parameter") for one in engine.parts(value)):
            copy = engine.allocate("container", node, scope, "copy")
            if ref.element is not None:
                element = flat(ref.element)
                engine.store_element(copy, snapshot(engine, Value(refs=element.refs - {ref}), node, scope))
            refs.add(copy)
        else:
            refs.add(ref)
    return Value(value.labels, frozenset(refs), value.constant, value.items, value.tags, value.lossy, value.step)


def gradient_of(engine, values, node, scope):
    """A loss goes backward."""
    content = join_all(engine.content(value) for value in values)
    kept = content.labels & COMPUTED | GRADIENT
    value = Value(
        kept, NONE, UNKNOWN, None, content.tags, NONE, Step(node, scope.module, "gradients of it", content.step)
    )
    engine.gradient = value if engine.stepped else join(engine.gradient, value)
    engine.stepped = False
    return value


def differentiated(engine, ref, arguments, keywords, node, scope) -> Value:
    """A call of what value_and_grad or grad made of a function."""
    result = engine.call(ref.extra, arguments, keywords, node, scope)
    gradients = gradient_of(engine, [result], node, scope)
    if ref.name == "grad":
        return gradients
    return Value(items=(result, gradients) if ref.name == "value_and_grad" else (gradients, result))


def stepped(engine, optimizers, node, scope):
    """An optimizer changes what it was given."""
    engine.stepped = True
    value = engine.gradient
    for ref in optimizers:
        objects = engine.roots(ref.value)
        value = Value(
            value.labels,
            NONE,
            UNKNOWN,
            None,
            value.tags,
            NONE,
            Step(node, scope.module, "an optimizer changes weights", value.step),
        )
        engine.emit("update", node, scope, value, objects)


def method(engine, base, name, arguments, keywords, node, scope) -> Value:
    """base.name(...), where base is data, a container, a model of torch, or something unknown."""
    kinds = {ref.kind for ref in base.refs}
    if "native" in kinds:
        return unknown(engine, base, arguments, keywords, node, scope)
    if name in EMPTIES and all(one.constant == 0 for one in arguments):
        engine.forget(emptied(engine, base.refs), node, scope)
    if kinds & {"module", "parameter", "optimizer"}:
        found = of_model(engine, base, name, arguments, keywords, node, scope)
        if found is not None:
            return found
    if "argparser" in kinds:
        return of_parser(engine, base, name, arguments, keywords)
    if "container" in kinds:
        found = of_container(engine, base, name, arguments, keywords, node, scope)
        if found is not None:
            return found
    if "hook" in kinds and name == "remove":
        for ref in base.refs:
            engine.hooks.pop(ref, None)
        return EMPTY
    if name == "backward":
        gradient_of(engine, [base], node, scope)
        return EMPTY
    if name == "elapsed_time":
        return Value(TIME)
    if name == "data_ptr" and "array" in kinds:
        return Value(refs=base.refs)
    if name == "step":
        optimizers = [ref for value in arguments for ref in value.refs if ref.kind == "optimizer"]
        if optimizers:
            stepped(engine, optimizers, node, scope)
        return EMPTY
    if name in SIZES:
        return Value(BYTES if name == "__len__" and engine.content(base).labels & VAL else 0)
    if name in COPIES and kinds & {"module", "parameter", "snapshot"}:
        return snapshot(engine, base, node, scope)
    if name == "read" or name in READERS:
        if base.labels & NAMES:
            return tokens_of(engine, [base, *arguments], keywords, node, scope)
        return derived(engine, [base])
    if name == "open":
        return base
    if name in {"glob", "rglob", "joinpath", "with_name"} and not base.labels & ORIGINS:
        return joined_path([base, *arguments])
    if name in {"format", "replace", "lower", "upper", "strip", "removeprefix", "removesuffix", "split"} and not kinds:
        return text_method(base, name, arguments)
    if name == "join" and base.constant is not UNKNOWN:
        return derived(engine, arguments)
    if name == "requires_grad_" and "array" in kinds:
        for ref in base.refs:
            if ref.kind == "array" and not (arguments and arguments[0].constant is False):
                ref.kind = "parameter"
        return base
    if name in ALLOCATES:
        return allocated(engine, arguments, keywords, node, scope)
    if engine.sides and name in {"unbind", "split", "chunk", "tensor_split"}:
        base = Value(base.labels, base.refs, base.constant, base.items, apart(base.tags), base.lossy, base.step)
    if name == "numpy" or name in SAME:
        return same(engine, base, name, arguments, node, scope)
    if name in {"gather", "take", "take_along_dim", "index_select", "__getitem__"}:
        key = arguments[-1] if arguments else keywords.get("index", EMPTY)
        return gathered(engine, base, key, node, scope)
    if name.removesuffix("_") in SCATTERS:
        key = arguments[1] if len(arguments) > 1 else keywords.get("index", EMPTY)
        value = arguments[2] if len(arguments) > 2 else keywords.get("src", keywords.get("source", EMPTY))
        engine.write(base, key, value, node, scope)
        return scattered(engine, base, name, key, node, scope)
    if name in {"index_put_", "put_", "index_put"}:
        engine.write(
            base,
            arguments[0] if arguments else EMPTY,
            arguments[1] if len(arguments) > 1 else EMPTY,
            node,
            scope,
        )
        return base
    if name in MINUS or name in FRESH or (name.endswith("_") and not name.startswith("__")):
        return in_place(engine, base, name, arguments, node, scope)
    if name == "where" and len(arguments) > 1:
        return picked(engine, arguments[0], base, arguments[1], node, scope)
    if name in EXTREMES and (arguments or keywords):
        along = bool(keywords.keys() & {"dim", "axis"}) or any(isinstance(one.constant, int) for one in arguments[:1])
        result = extreme(engine, [base, *arguments], along, node, scope)
        if result is not None:
            return result
    if name == "lerp" and len(arguments) > 1:
        result = derived(engine, [base, *arguments])
        return engine.weighted(node.args[1:2], result, node, scope) if result.labels & EACH else result
    if name in {"argmax", "multinomial", "topk", "max"} and engine.content(base).labels & MODEL:
        content = derived(engine, [base], drop=LOSS)
        if name in ("argmax", "multinomial"):
            return Value(content.labels & ORIGINS | GENERATED | TOKENS, tags=content.tags, step=content.step)
        return content
    if name in DIVISIONS and arguments:
        return engine.binary(ast.Div(), base, arguments[0], node, scope)
    if name in ("mul", "multiply") and arguments:
        return engine.binary(ast.Mult(), base, arguments[0], node, scope)
    if name in POWERS and arguments:
        return engine.binary(ast.Pow(), base, arguments[0], node, scope)
    if name in XORS and arguments:
        return engine.binary(ast.BitXor(), base, arguments[0], node, scope)
    if name in HASHES and arguments:
        return engine.binary(ast.Mod(), base, arguments[0], node, scope)
    if name in {"matmul", "mm", "bmm"} and arguments:
        labels = GRAM if _gram(node) else 0
        return derived(engine, [base, *arguments], labels=labels)
    if name in {"eq", "ne", "gt", "lt", "ge", "le", "any", "all", "nonzero", "isfinite"}:
        content = engine.content(base)
        return Value(content.labels & ORIGINS | seen_by(name, [content, *map(engine.content, arguments)]))
    if name == "bincount":
        return counted(engine, base, node, scope)
    if name == "searchsorted":
        return derived(engine, arguments)
    if (name in SUMS and not arguments and not keywords.keys() & {"dim", "axis"}) or name in MIDDLES:
        return derived(engine, [base], drop=OF_ONE)
    if name in {"submit", "map", "apply_async", "run"} and arguments:
        return engine.call(arguments[0], arguments[1:], {}, node, scope)
    result = derived(engine, [base, *arguments, *keywords.values()])
    if name == "apply":
        result = fused(engine, result, arguments)
    if name in {"encode", "decode", "DecodeIds", "decode_ids", "id_to_piece", "IdToPiece"} and result.labels & VAL:
        seen = SEEN if result.labels & (TARGET | SEEN) else 0
        return Value(result.labels & ORIGINS | BYTES | seen, tags=NONE, step=result.step)
    return exponential(engine, name, result, node, scope)


def same(engine, base, name, arguments, node, scope) -> Value:
    result = base
    if name == "roll" and arguments and base.labels & TOKENS and _negative(node):
        return engine.step(base, node, scope, "the tokens one further on: the targets", TARGET)
    if name == "item" and base.refs:
        return derived(engine, [base])
    if name in ("masked_fill", "masked_fill_") and arguments:
        told = engine.tell(base, arguments[0], EMPTY, node, scope)
        return result if told is EMPTY else join(result, told)
    return result


def of_model(engine, base, name, arguments, keywords, node, scope) -> Value | None:
    """Methods of torch modules, parameters and optimizers."""
    trained = [ref for ref in base.refs if ref.kind in ("module", "parameter")]
    optimizers = [ref for ref in base.refs if ref.kind == "optimizer"]
    if optimizers:
        if name == "step":
            for value in (*arguments, *keywords.values()):  # a closure that computes the gradients
                if any(ref.kind in ("function", "method", "partial") for ref in value.refs):
                    engine.call(value, [], {}, node, scope)
            stepped(engine, optimizers, node, scope)
            return EMPTY
        if name == "zero_grad":
            engine.stepped = True
            return EMPTY
        if name in ("update", "apply_gradients") and len(arguments) > 1:
            contents = [engine.content(value) for value in arguments[:2]]
            gradients = [index for index, one in enumerate(contents) if one.labels & GRADIENT]
            if len(gradients) == 1:
                changed = engine.roots(arguments[1 - gradients[0]])
                engine.emit("update", node, scope, contents[gradients[0]], changed)
            return EMPTY
        if name in OPTIMIZER_METHODS:
            if name == "add_param_group" and arguments:
                for ref in optimizers:
                    engine.store_element(ref, flat(arguments[0]))
            return EMPTY
    if not trained:
        return None
    if name in PARTS_OF_A_MODEL:
        kind, named = PARTS_OF_A_MODEL[name]
        element = EMPTY
        for ref in trained:
            part = engine.heap.get((ref, f"*{kind}s"))
            if part is None:
                part = engine.heap[(ref, f"*{kind}s")] = engine.new(kind, f"{kind}s", ref.node, owner=ref)
            element = join(element, part.value)
        return listed(engine, Value(items=(EMPTY, element)) if named else element, node, scope)
    if name in {"items", "values", "keys"}:
        element = Value(refs=frozenset(trained))
        return listed(engine, Value(items=(EMPTY, element)) if name == "items" else element, node, scope)
    if name == "state_dict":
        return listed(engine, Value(refs=frozenset(trained)), node, scope)
    if name == "load_state_dict":
        loaded = arguments[0] if arguments else keywords.get("state_dict", EMPTY)
        roots = frozenset(ref.root for ref in trained)
        engine.emit("load", node, scope, engine.content(loaded), roots, engine.roots(loaded) or None)
        return EMPTY
    if name in ("register_forward_hook", "register_forward_pre_hook"):
        handle = engine.allocate("hook", node, scope)
        if arguments:
            engine.hooks[handle] = arguments[0]
        return handle.value
    if name in COPIES:
        return snapshot(engine, base, node, scope)
    if name in {"register_buffer", "register_parameter", "add_module"} and len(arguments) > 1:
        if isinstance(arguments[0].constant, str):
            for ref in trained:
                known = ref.fields.get(arguments[0].constant)
                ref.fields[arguments[0].constant] = arguments[1] if known is None else join(known, arguments[1])
        return EMPTY
    if name in {"append", "extend", "insert"}:
        for ref in trained:
            for value in arguments:
                for part in engine.parts(value):
                    if part.kind in ("module", "parameter") and part.owner is None and part.root is not ref.root:
                        part.owner = ref
        return EMPTY
    if name in SIZES or name == "zero_grad":
        return EMPTY
    if name in SAME or name in MODULE_METHODS:
        return Value(refs=frozenset(trained))
    if name in MINUS or name in FRESH:
        return in_place(engine, base, name, arguments, node, scope)
    return None


def listed(engine, element, node, scope) -> Value:
    ref = engine.allocate("container", node, scope, "listed")
    engine.store_element(ref, element)
    return ref.value


def of_parser(engine, base, name, arguments, keywords) -> Value:
    if name == "add_argument":
        for ref in base.refs:
            for value in arguments:
                if isinstance(value.constant, str):
                    field = value.constant.lstrip("-").replace("-", "_")
                    default = keywords.get("default", EMPTY)
                    if default is EMPTY and "action" in keywords and keywords["action"].constant == "store_true":
                        default = EMPTY
                    given = engine.program.arguments
                    ref.fields[field] = EMPTY if value.constant in given else default
        return EMPTY
    if name == "parse_known_args":
        return Value(items=(base, EMPTY))
    return base


def of_container(engine, base, name, arguments, keywords, node, scope) -> Value | None:
    """Methods of lists, dicts, sets, queues and counters."""
    containers = [ref for ref in base.refs if ref.kind == "container"]
    first = arguments[0] if arguments else EMPTY
    if name in {"append", "add", "appendleft", "insert", "put", "put_nowait", "extend", "extendleft"}:
        value = arguments[-1] if arguments else EMPTY
        content = engine.content(value)
        if name.startswith("extend"):
            value = engine.iterate(value, node, scope)
        if content.labels & (LOSS | COUNTS) and content.labels & VAL:
            engine.emit("score", node, scope, content)
            value = Value(
                value.labels,
                value.refs,
                UNKNOWN,
                value.items,
                united(value.tags, frozenset((("sum", node),))),
                value.lossy,
                value.step or content.step,
            )
        if content.labels & GRAM:
            engine.emit("calibrate", node, scope, content)
        for ref in containers:
            engine.store_element(ref, value)
            ref.extra = None
            if name == "add":
                engine.written(ref, content, node, scope)
        return EMPTY
    if name in {"get", "pop", "setdefault", "__getitem__", "get_nowait"}:
        if name == "setdefault":
            engine.write(base, first, arguments[1] if len(arguments) > 1 else EMPTY, node, scope)
        result = engine.read(base, first, node, scope)
        named = engine.of_files(base, first)
        if named is not None:
            return named
        if isinstance(first.constant, str):
            held = [ref.fields[first.constant] for ref in containers if first.constant in ref.fields]
            if held:
                return join_all(held)
        for ref in containers:
            if ref.element is not None:
                result = join(result, ref.element)
        loops = loops_of(base) | loops_of(engine.content(first))
        if loops:  # as what is taken by number in brackets
            result = tagged(result, loops)
        for value in arguments[1:]:
            result = join(result, value)
        key = engine.content(first)
        return engine.seen_through(result, key.step, key.labels & (SEEN | CHOSEN)) if key.labels & SEEN else result
    if name in {"items", "values", "keys", "most_common", "popleft", "popitem", "copy", "__iter__", "elements"}:
        element = EMPTY
        for ref in containers:
            if ref.element is not None:
                element = join(element, ref.element)
        if name == "copy":
            return base
        if name == "popleft":
            return tagged(element, loops) if (loops := loops_of(base)) else element
        if name == "keys":
            return EMPTY
        rows = [tag for tag in base.tags if type(tag) is tuple and tag[0] == "count"]
        if rows:
            element = Value(
                element.labels,
                element.refs,
                element.constant,
                element.items,
                united(element.tags, frozenset(rows)),
                element.lossy,
                element.step,
            )
        if name in {"items", "most_common", "popitem"}:
            element = Value(items=(Value(), element))
        return listed(engine, element, node, scope)
    if name in ("update", "subtract"):
        for value in (*arguments, *keywords.values()):
            element = engine.iterate(value, node, scope)
            content = engine.content(element)
            for ref in containers:
                if ref.name == "counter" or content.labels & TOKENS:
                    engine.written(ref, content, node, scope)
                engine.store_element(ref, flat(element))
                for one in value.refs:
                    if one.written:
                        ref.written |= one.written
                        ref.written_tags = united(ref.written_tags, one.written_tags)
                        ref.element = join(ref.element, one.element) if one.element is not None else ref.element
        return EMPTY
    if name in {"clear", "sort", "reverse", "remove", "discard"}:
        return EMPTY
    return None


def text_method(base, name, arguments) -> Value:
    constant = base.constant
    texts = isinstance(constant, str) and all(isinstance(one.constant, str) for one in arguments)
    if texts and name in {"lower", "upper", "strip", "removeprefix", "removesuffix", "replace"}:
        try:
            return Value(base.labels, constant=getattr(constant, name)(*[one.constant for one in arguments]))
        except TypeError:
            return Value(base.labels)
    labels = base.labels
    for one in arguments:
        labels |= one.labels & NAMES
    return Value(labels, tags=base.tags, step=base.step)


def in_place(engine, base, name, arguments, node, scope) -> Value:
    """A tensor is changed in place: x.add_(y)."""
    content = derived(engine, arguments)
    trained = [ref for ref in base.refs if ref.kind in {"module", "parameter", "snapshot"}]
    if trained:
        if name in FRESH:
            engine.emit("load", node, scope, content, frozenset(ref.root for ref in trained), NONE)
        elif content.labels & GRADIENT:
            engine.changed(trained, content, node, scope)
        elif name == "copy_":
            value = join_all(arguments)
            roots = frozenset(ref.root for ref in trained)
            engine.emit("load", node, scope, content, roots, engine.roots(value) or None)
        elif arguments:
            roots = frozenset(ref.root for ref in trained)
            engine.emit("mix", node, scope, content, roots, engine.roots(join_all(arguments)))
        return base
    if name in {"addmm_", "baddbmm_", "addmv_", "addr_"} and _gram_of(node):
        content = Value(content.labels | GRAM, NONE, UNKNOWN, None, content.tags, content.lossy, content.step)
    if content.labels & GRAM:
        engine.emit("calibrate", node, scope, content)
    if name.startswith("add") and content.labels & LOSS and content.labels & ORIGINS:
        engine.emit("score", node, scope, content)
        content = Value(
            content.labels,
            NONE,
            UNKNOWN,
            None,
            united(content.tags, frozenset((("sum", node),))),
            content.lossy,
            content.step,
        )
    for ref in base.refs:
        if ref.kind == "array":
            if content.labels or content.tags:
                engine.store_element(ref, content)
            for value in arguments:
                for other in value.refs:
                    if other.written and other is not ref:
                        engine.written(ref, Value(other.written, tags=other.written_tags), node, scope)
    if isinstance(node.func, ast.Attribute) and content.labels:
        engine.keep_written(node.func.value, base, content, scope)
    return join(base, content) if base.labels else base


def gathered(engine, base, key, node, scope) -> Value:
    """base.gather(dim, key): picks elements; of a distribution under tokens, that is a likelihood."""
    index = engine.content(key)
    content = engine.content(base)
    counted = engine.read(base, key, node, scope)
    if counted is not EMPTY:
        mixed = EACH | SEEN if content.labels & MODEL else 0
        return join(counted, Value(content.labels & COUNTS | mixed, tags=content.tags))
    labels = content.labels
    tags, path = content.tags, content.step
    if index.labels & TOKENS:
        labels |= index.labels & ORIGINS
        tags = united(tags, index.tags)
        if labels & (MODEL | COUNTS) and not labels & TOKENS:
            labels = labels & ~GRAM | LOSS
            if not index.labels & (GENERATED | COUNTS):
                labels |= SEEN | (EACH if content.labels & MODEL else 0)
            path = Step(node, scope.module, "the likelihood of the true tokens", path or index.step)
        elif NUMBERED in content.tags:
            return renamed(content, index)
        elif not labels & TOKENS:
            labels |= BYTES
    result = Value(labels, NONE, UNKNOWN, None, tags, content.lossy, path)
    return engine.likelihood(content, result, node, scope) if engine.told and labels & EACH else result


def renamed(numbers, index) -> Value:
    """Other numbers for tokens: which token it is can be told from them."""
    labels = numbers.labels & ~(VOCABULARY | GENERATED) | index.labels & (ORIGINS | TOKENS | TARGET)
    lossy = united(index.lossy, numbers.lossy)
    return Value(labels, NONE, UNKNOWN, None, united(numbers.tags, index.tags), lossy, index.step)


def counted(engine, key, node, scope, name="bincount") -> Value:
    """A fresh table of how often each key occurs."""
    ref = engine.allocate("array", node, scope, name)
    engine.written(ref, engine.content(key), node, scope)
    return ref.value


def fused(engine, result, arguments) -> Value:
    """A kernel that is given tokens and what a model computed may be a loss."""
    labels = [engine.content(one).labels for one in arguments]
    tokens = any(one & TOKENS for one in labels)
    model = any(one & MODEL and not one & TOKENS for one in labels)
    kept = result.labels & ~(TOKENS | TARGET | GRAM)
    if tokens and model:
        kept |= LOSS
    return Value(kept, result.refs, UNKNOWN, None, result.tags, result.lossy, result.step)


def unknown(engine, callee, arguments, keywords, node, scope) -> Value:
    """A call of something unknown, as of a compiled kernel: its results and the arrays it is given may hold anything
    that it was given."""
    given = [*arguments, *keywords.values()]
    if isinstance(getattr(node, "func", None), ast.BinOp):  # (c_double * n)(): an array of ctypes
        return engine.allocate("array", node, scope).value
    result = derived(engine, [callee, *given])
    result = fused(engine, result, given)
    if result.labels & VAL and any(ref.kind == "native" for ref in callee.refs):
        result = engine.step(result, node, scope, "native code is given validation tokens", NATIVE)
        engine.native.append(result.step)
    for value in given:
        for ref in value.refs:
            if ref.kind == "array" and result.labels & (ORIGINS | LOSS):
                engine.store_element(ref, Value(result.labels & ~TOKENS, tags=result.tags, step=result.step))
    return result


def tokens_of(engine, arguments, keywords, node, scope) -> Value:
    """A file is read. Its name says which split it is of."""
    names = derived(engine, [*arguments, *(value for name, value in keywords.items() if name != "dtype")])
    if header(arguments, keywords):
        return EMPTY
    labels = 0
    if names.labels & NAMES_VAL:
        labels |= VAL
    if names.labels & NAMES_TRAIN:
        labels |= TRAIN
    if not labels:
        return Value(names.labels & ORIGINS, tags=names.tags, step=names.step)
    splits = " and ".join(split for split, bit in (("training", TRAIN), ("validation", VAL)) if labels & bit)
    step = Step(node, scope.module, f"{splits} shards are read", None)
    return Value(labels | TOKENS, tags=names.tags, step=step)


def header(arguments, keywords) -> bool:
    """Whether it is a shard's header that is read: a few 32-bit numbers from its beginning."""
    count = keywords.get("count", arguments[2] if len(arguments) > 2 else EMPTY).constant
    if isinstance(count, int) and 0 < count <= 1024:
        return True
    dtype = keywords.get("dtype", arguments[1] if len(arguments) > 1 else EMPTY)
    names = [ref.name for ref in dtype.refs if ref.kind == "external"]
    text = dtype.constant if isinstance(dtype.constant, str) else ""
    wide = "i4" in text or "int32" in text or (bool(names) and all(one.endswith("int32") for one in names))
    return wide and "offset" not in keywords


def joined_path(arguments) -> Value:
    labels = 0
    for one in arguments:
        own = one.labels & NAMES
        if own & (NAMES_TRAIN | NAMES_VAL):
            labels &= ~(NAMES_TRAIN | NAMES_VAL)
        labels |= own
    return Value(labels)


def environment(engine, arguments, node, scope) -> Value:
    """os.environ.get(name, default): what the run command or the program itself sets, or the default."""
    from harness.compliance.flow_engine import name_labels

    name = arguments[0].constant if arguments else UNKNOWN
    default = arguments[1] if len(arguments) > 1 else Value(constant=None)
    if not isinstance(name, str):
        return Value(default.labels)
    given, *others = engine.program.variable(name, node, scope.program_scope)
    if others:
        texts = [one for one in (given, *others) if isinstance(one, str)]
        return join_all([Value(default.labels), *(Value(name_labels(one)) for one in texts)])
    if isinstance(given, str):
        return Value(name_labels(given), constant=given)
    if name in {"RANK", "LOCAL_RANK", "GROUP_RANK"}:
        return Value(RANK)
    if name in ("MASTER_ADDR", "MASTER_PORT"):
        return EMPTY
    if given is not None:
        return Value(default.labels | name_labels(name))
    if default.constant is None and len(arguments) < 2:
        return Value(name_labels(name), constant=None)
    return default


def function(engine, dotted, arguments, keywords, node, scope) -> Value:
    """A call of something that is not of the program, by its full name."""
    name = dotted.rpartition(".")[2]
    first = arguments[0] if arguments else EMPTY
    if dotted in {"os.environ.get", "os.getenv", "os.environ.setdefault", "os.environ.pop"}:
        return environment(engine, arguments, node, scope)
    if dotted in SAVERS:
        engine.emit("saved", node, scope, EMPTY, engine.roots(first))
    if dotted in MODULE_LOADERS:
        modules = engine.program.loaded_modules(dotted, node, scope.program_scope)
        return join_all([engine.imported(module.name) for module in modules])
    if dotted in NATIVE_CODE and not (arguments and native.is_system_library(first.constant)):
        return engine.allocate("native", node, scope).value
    if dotted.startswith("ctypes.") and first.refs:
        return first  # a pointer to it
    if name == "range":
        if len(arguments) < 3 and arguments:
            bound, start = arguments[-1].constant, 0 if len(arguments) < 2 else first.constant
            if isinstance(bound, int) and isinstance(start, int) and bound - start < 2:
                return Value(constant="once" if bound > start else "nothing")
        loops = join_all(arguments)
        return Value(tags=loops.tags)
    if name in {"int", "float", "bool", "str"} and len(arguments) == 1 and first.constant is not UNKNOWN:
        return converted(name, first)
    if dotted in {"math.log", "numpy.log", "math.log2", "math.exp"} and isinstance(first.constant, (int, float)):
        return logarithm(name, arguments)
    if dotted in ("len", "builtins.len"):
        content = engine.content(first)
        spelled = content.labels & SEEN and not content.labels & (LOSS | COUNTS)  # the bytes of the tokens that came
        return Value(BYTES if spelled or content.labels & BYTES else 0)
    if dotted.endswith(("add.at", "ufunc.at")) or name == "at":
        if len(arguments) > 1:
            engine.write(first, arguments[1], arguments[2] if len(arguments) > 2 else EMPTY, node, scope)
        return EMPTY
    if name in NUMBERS:
        return EMPTY
    if name == "get_rank":
        return Value(RANK)
    if name == "field" and "default_factory" in keywords:
        return engine.call(keywords["default_factory"], [], {}, node, scope)
    if name == "field" and "default" in keywords:
        return keywords["default"]
    if dotted in CLOCKS:
        return Value(TIME)
    if (name == "join" and "path" in dotted) or name in {"Path", "PurePath", "PosixPath"}:
        return joined_path(arguments)
    if name in {"glob", "iglob", "listdir", "scandir"}:
        return Value(first.labels & NAMES)
    if name == "open":
        return Value(first.labels & NAMES)
    if name in READERS and (dotted.startswith(("numpy", "np.", "torch", "mmap")) or first.labels & NAMES):
        return tokens_of(engine, arguments, keywords, node, scope)
    optimizer = ".optim." in dotted and name[:1].isupper() and "lr_scheduler" not in dotted
    if optimizer or name in {"AdamW", "Adam", "SGD"}:
        ref = engine.allocate("optimizer", node, scope, name)
        given = join_all(flat(one) for one in arguments[:1] or keywords.values())
        engine.store_element(ref, given)
        return ref.value
    if name in ("Parameter", "Buffer"):
        ref = engine.allocate("parameter", node, scope)
        return ref.value
    if name in LOSSES:
        return loss(engine, arguments, keywords, node, scope, name)
    if ".nn." in dotted and name[:1].isupper() and name not in ("DistributedDataParallel", "DataParallel"):
        ref = engine.allocate("module", node, scope, name)
        for value in arguments:
            for part in engine.parts(value):
                if part.kind in ("module", "parameter") and part.owner is None and part.root is not ref.root:
                    part.owner = ref
            if name in {"ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict"}:
                for one in value.refs:
                    if one.kind == "container" and one.element is not None:
                        ref.fields["*"] = one.element
        return ref.value
    if name in ALLOCATES:
        return allocated(engine, arguments, keywords, node, scope)
    if name == "arange":
        return Value(VOCABULARY, tags=united(join_all(arguments).tags, frozenset((NUMBERED,))))
    if name in RANDOM and not (name == "random" and arguments and engine.content(first).labels):
        content = derived(engine, arguments) if name in {"choice", "choices", "sample"} else EMPTY
        if content.labels & TOKENS:
            return content
        tags = frozenset((NUMBERED,)) if name in INTEGERS else NONE
        return Value(GENERATED | TOKENS, tags=tags, step=Step(node, scope.module, "random tokens", None))
    if name == "multinomial":
        content = derived(engine, arguments)
        step = Step(node, scope.module, "tokens are sampled", content.step)
        return Value(content.labels & ORIGINS | GENERATED | TOKENS, tags=content.tags, step=step)
    if name == "argmax" and engine.content(first).labels & MODEL:
        content = derived(engine, arguments)
        return Value(content.labels & ORIGINS | GENERATED | TOKENS, tags=content.tags, step=content.step)
    if name in ("deepcopy", "copy") and dotted.startswith("copy"):
        return snapshot(engine, first, node, scope)
    if name == "partial":
        ref = engine.allocate("partial", node, scope)
        ref.extra = (first, arguments[1:], keywords)
        return ref.value
    if name == "grad" and "autograd" in dotted:
        return gradient_of(engine, arguments[:1], node, scope)
    if name in {"value_and_grad", "grad", "grad_and_value"} and arguments:
        functions = [one for one in arguments if any(ref.kind in {"function", "method", "partial"} for ref in one.refs)]
        if functions:
            ref = engine.allocate("gradient", node, scope, name)
            ref.extra = functions[0]
            return ref.value
    if name == "backward" and "autograd" in dotted:
        gradient_of(engine, arguments[:1], node, scope)
        return EMPTY
    if name == "ArgumentParser":
        return engine.allocate("argparser", node, scope).value
    if name in {"zip", "enumerate", "zip_longest"}:
        items = [engine.iterate(one, node, scope) for one in arguments]
        if name == "enumerate":
            items = [Value(tags=NONE), *items[:1]]
        return listed_fresh(engine, Value(items=tuple(items)), node, scope)
    if name == "map" and arguments:
        elements = [engine.iterate(one, node, scope) for one in arguments[1:]]
        return listed(engine, engine.call(first, elements, {}, node, scope), node, scope)
    if name == "filter" and len(arguments) > 1:
        return arguments[1]
    if name == "next":
        return engine.iterate(first, node, scope)
    if name == "getattr" and len(arguments) > 1 and isinstance(arguments[1].constant, str):
        found = engine.attribute(first, arguments[1].constant, node, scope)
        return join(found, arguments[2]) if len(arguments) > 2 and found is EMPTY else found
    if name == "setattr" and len(arguments) > 2 and isinstance(arguments[1].constant, str):
        for ref in first.refs:
            if ref.kind != "external":
                known = ref.fields.get(arguments[1].constant)
                ref.fields[arguments[1].constant] = arguments[2] if known is None else join(known, arguments[2])
        return EMPTY
    if name in {
        "dict",
        "list",
        "set",
        "defaultdict",
        "Counter",
        "deque",
        "bytearray",
        "OrderedDict",
        "SimpleNamespace",
        "Queue",
        "SimpleQueue",
        "LifoQueue",
        "LRUCache",
    } and (name not in {"list", "set", "deque", "bytearray"} or not arguments):
        return container(engine, name, arguments, keywords, node, scope)
    if name == "bincount":
        return counted(engine, first, node, scope)
    if name == "unique":
        table = counted(engine, first, node, scope, "unique")
        return Value(refs=table.refs, items=(table, table))
    if name == "searchsorted":
        return derived(engine, arguments[1:2])
    if name in {"digitize", "bucketize"}:
        return derived(engine, arguments[:1])
    if name == "embedding" and len(arguments) > 1 and NUMBERED in engine.content(arguments[1]).tags:
        return renamed(engine.content(arguments[1]), engine.content(first))
    if name in GATHERS and dotted.startswith("torch.distributed"):
        return gathered_from_ranks(engine, GATHERS[name], arguments, keywords)
    if name in {"gather", "take", "take_along_axis", "take_along_dim", "index_select"}:
        key = (
            arguments[-1]
            if name == "gather" or name == "index_select"
            else (arguments[1] if len(arguments) > 1 else EMPTY)
        )
        return gathered(engine, first, keywords.get("index", key), node, scope)
    if name.removesuffix("_") in SCATTERS and len(arguments) > 2:
        engine.write(first, arguments[2], arguments[3] if len(arguments) > 3 else EMPTY, node, scope)
        return scattered(engine, first, name, arguments[2], node, scope)
    if name == "one_hot" and arguments:
        content = derived(engine, arguments[:1])
        if not engine.is_target(content, node):
            return content
        return derived(engine, [content], labels=HOT, drop=TOKENS | TARGET)
    if name in DIVISIONS and len(arguments) > 1:
        result = engine.binary(ast.Div(), first, arguments[1], node, scope)
        return stored_out(engine, result, keywords)
    if name in ("multiply", "mul") and len(arguments) > 1:
        return engine.binary(ast.Mult(), first, arguments[1], node, scope)
    if name in POWERS and len(arguments) > 1:
        return engine.binary(ast.Pow(), first, arguments[1], node, scope)
    if name in XORS and len(arguments) > 1:
        return engine.binary(ast.BitXor(), first, arguments[1], node, scope)
    if name in HASHES and arguments:
        value = derived(engine, arguments)
        if value.labels & TOKENS:
            lossy = united(value.lossy, value.tags)
            step = Step(node, scope.module, "hashed: different tokens can meet under one key", value.step)
            return Value(value.labels, NONE, UNKNOWN, None, value.tags, lossy, step)
        return value
    if name in {"matmul", "mm", "bmm", "einsum", "dot", "addmm", "baddbmm"}:
        labels = GRAM if _gram_arguments(node) else 0
        return derived(engine, arguments, labels=labels)
    if name in {"load", "loads", "from_pretrained", "fetch"}:
        return Value(first.labels & ORIGINS)
    if name in RETURNS_ARGUMENT or dotted in ("torch.compile", "contextlib.nullcontext"):
        return given_back(engine, name, arguments, keywords, node, scope)
    if name in {"no_grad", "inference_mode", "autocast", "enable_grad", "profile", "wait", "barrier", "synchronize"}:
        return given_back(engine, name, arguments[:1], {}, node, scope) if first.refs else EMPTY
    if name in {"Thread", "Process", "submit", "run_in_executor", "spawn", "starmap"} or "target" in keywords:
        target = keywords.get("target", first)
        passed = keywords.get("args", EMPTY)
        if any(ref.kind in ("function", "method") for ref in target.refs):
            given = list(passed.items) if passed.items else arguments[1:]
            return engine.call(target, given, {}, node, scope)
    if name in {
        "all_reduce",
        "broadcast",
        "reduce_scatter_tensor",
        "isend",
        "send",
    }:
        return EMPTY
    if name in {
        "eq",
        "equal",
        "greater",
        "less",
        "isin",
        "any",
        "all",
        "logical_and",
        "logical_or",
        "nonzero",
        "isfinite",
    }:
        content = derived(engine, arguments)
        return Value(content.labels & ORIGINS | seen_by(name, [content]), step=content.step)
    if (name in SUMS and len(arguments) == 1 and not keywords.keys() & {"dim", "axis"}) or name in MIDDLES:
        return derived(engine, arguments, drop=OF_ONE)
    if name in {"isnan", "isinf"} and arguments:
        return derived(engine, arguments, drop=SEEN)
    if name in {"logaddexp", "logaddexp2", "lerp"} and len(arguments) > 1:
        result = exponential(engine, name, derived(engine, arguments), node, scope)
        if result.labels & EACH:
            weights = logarithmic_weights(engine.program, node.args, scope.program_scope)
            return engine.weighted(node.args[2:3] if name == "lerp" else weights, result, node, scope)
        return result
    if name in {"foreach_add_", "_foreach_add_", "_foreach_sub_", "_foreach_addcdiv_"} and len(arguments) > 1:
        changed = [part for part in engine.parts(first) if part.kind in ("module", "parameter")]
        if changed:
            engine.changed(changed, derived(engine, arguments[1:]), node, scope)
        return EMPTY
    if dotted.partition(".")[0] in PURE_LIBRARIES:
        result = fused(engine, derived(engine, [*arguments, *keywords.values()]), arguments)
        result = exponential(engine, name, result, node, scope)
    else:
        result = unknown(engine, EMPTY, arguments, keywords, node, scope)
    kept = frozenset(
        ref
        for one in arguments
        for ref in one.refs
        if ref.kind in {"function", "module", "method", "partial", "instance"}
    )
    return Value(result.labels, kept, UNKNOWN, None, result.tags, result.lossy, result.step)


def listed_fresh(engine, element, node, scope) -> Value:
    """As `listed`, but the element is what it is now, so that tuples keep their items."""
    ref = engine.allocate("container", node, scope, "zipped")
    if ref.element is None or ref.element.items is None or len(ref.element.items) != len(element.items or ()):
        ref.element = element
    else:
        ref.element = join(ref.element, element)
    return ref.value


def seen_by(name, contents) -> int:
    """What the result of a comparison, or what is made of one, says of what is seen."""
    labels = 0
    for content in contents:
        labels |= content.labels
    if name in {"any", "all", "isfinite"}:
        return 0
    if labels & CHOSEN or (labels & SEEN and name not in {"eq", "ne", "equal"}):
        return CHOSEN
    return 0


def picked(engine, condition, one, other, node, scope) -> Value:
    """where(condition, one, other)."""
    one, other = derived(engine, [one]), derived(engine, [other])
    asked = engine.content(condition)
    if asked.labels & (SEEN | CHOSEN):
        return engine.one_of(one, other, asked.step, node, scope)
    return join(join(one, other), engine.tell(other, condition, EMPTY, node, scope))


def extreme(engine, arguments, along, node, scope) -> Value | None:
    """The smaller or larger of two likelihoods of a token, or of several along an axis; nothing if it is not that."""
    values = [engine.content(one) for one in arguments]
    likelihoods = [one for one in values if one.labels & EACH]
    if len(likelihoods) < (1 if along else 2) or engine.stabilises(node, scope):
        return None
    step = next((one.step for one in likelihoods if one.labels & (SEEN | CHOSEN)), None)
    return engine.gated(derived(engine, values), step, node, scope, BETTER_KEPT)


def stored_out(engine, result, keywords) -> Value:
    out = keywords.get("out")
    if out is not None:
        for ref in out.refs:
            engine.store_element(ref, result)
    return result


def converted(name, value) -> Value:
    constant = value.constant
    try:
        if name == "int":
            return Value(value.labels, constant=int(constant))
        if name == "float":
            return Value(value.labels, constant=float(constant))
        if name == "bool":
            return Value(value.labels, constant=bool(constant))
        return Value(value.labels, constant=str(constant))
    except (TypeError, ValueError, OverflowError):
        return Value(value.labels)


def scattered(engine, base, name, key, node, scope) -> Value:
    """A prediction that is changed under a key, or a row with a place for each token."""
    told = engine.tell(base, key, EMPTY, node, scope)
    rows = [ref for ref in base.refs if ref.kind == "array"]
    onto = node.func.value if isinstance(node.func, ast.Attribute) else None  # row[:, 2:]: at later places
    if rows and not moved(onto) and engine.is_target(engine.content(key), node):
        told = Value(HOT)
        for ref in rows:
            engine.store_element(ref, told)
    if told is EMPTY:
        return base
    if name.endswith("_") and isinstance(node.func, ast.Attribute):
        engine.keep_written(node.func.value, base, told, scope)
    return join(base, told)


def moved(node) -> bool:
    """Whether an expression is a slice that begins behind the first place."""
    parts = getattr(getattr(node, "slice", None), "elts", (getattr(node, "slice", None),))
    return any(isinstance(part, ast.Slice) and part.lower is not None for part in parts)


def gathered_from_ranks(engine, places, arguments, keywords) -> Value:
    """What every process has is put into a list, or an array, of one or each of them."""
    into_name, into_place, sent_name, sent_place = places
    into = arguments[into_place] if len(arguments) > into_place else keywords.get(into_name, EMPTY)
    sent = arguments[sent_place] if len(arguments) > sent_place else keywords.get(sent_name, EMPTY)
    for ref in into.refs:
        if ref.kind in ("container", "array"):
            engine.store_element(ref, sent)
    return EMPTY


def exponential(engine, name, result, node, scope) -> Value:
    """What a function gives, if it is one that makes likelihoods of their logarithms."""
    return engine.likely_again(result, result, node, scope) if engine.shares and name in EXPONENTIALS else result


def logarithm(name, arguments) -> Value:
    numbers = [one.constant for one in arguments if isinstance(one.constant, (int, float))]
    try:
        return Value(constant=getattr(math, name)(*numbers))
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        return EMPTY


def container(engine, name, arguments, keywords, node, scope) -> Value:
    ref = engine.allocate("container", node, scope, "counter" if name == "Counter" else "")
    for value in keywords.values():
        engine.store_element(ref, value)
    for key, value in keywords.items():
        ref.fields.setdefault(key, value)
    if name == "defaultdict" and arguments:
        made = engine.call(arguments[0], [], {}, node, scope)
        if made.refs:
            engine.store_element(ref, made)
        return ref.value
    for value in arguments:
        element = engine.iterate(value, node, scope)
        if name == "Counter":
            engine.written(ref, engine.content(element), node, scope)
        elif name == "dict" and element.items and len(element.items) == 2:
            engine.written(ref, engine.content(element.items[0]), node, scope)
            engine.store_element(ref, element.items[1])
        else:
            engine.store_element(ref, element)
            for one in value.refs:
                if one.kind == "container":
                    for key, field in one.fields.items():
                        ref.fields.setdefault(key, field)
    return ref.value


def loss(engine, arguments, keywords, node, scope, name) -> Value:
    """A loss against tokens."""
    if name[:1].isupper():
        return Value(refs=frozenset(engine.external("torch.nn.functional.cross_entropy").refs))
    values = [*arguments, *(keywords[key] for key in ("input", "target") if key in keywords)]
    result = derived(engine, values, drop=TOKENS | TARGET | GRAM)
    targets = engine.content(values[1]) if len(values) > 1 else EMPTY
    step = Step(node, scope.module, "the loss against the tokens", targets.step or result.step)
    reduction = keywords.get("reduction", EMPTY).constant
    labels = LOSS | MODEL | (EACH | SEEN if reduction == "none" else 0)
    result = Value(result.labels | labels, NONE, UNKNOWN, None, result.tags, NONE, step)
    return engine.likelihood(engine.content(values[0]), result, node, scope) if engine.told and values else result


def given_back(engine, name, arguments, keywords, node, scope) -> Value:
    if not arguments and keywords:
        arguments = list(keywords.values())
    if name in {"int", "float", "round", "abs"} and arguments:
        return derived(engine, arguments)
    if name == "where":
        if len(arguments) == 3:
            return picked(engine, *arguments, node, scope)
        return derived(engine, arguments[1:] or arguments)
    if name in EXTREMES:
        found = extreme(engine, arguments, bool(keywords.keys() & {"dim", "axis"}), node, scope)
        if found is not None:
            return found
    if name == "roll" and arguments and arguments[0].labels & TOKENS and _negative(node):
        return engine.step(arguments[0], node, scope, "the tokens one further on: the targets", TARGET)
    result = EMPTY
    for value in arguments:
        if name in STACKS or name in JOINS or name == "chain":
            result = join(result, derived(engine, [engine.iterate(value, node, scope)]))
        elif name in {"min", "max", "maximum", "minimum"}:
            result = join(result, derived(engine, [value]))
        else:
            result = join(result, value)
            if name not in {"DistributedDataParallel", "DataParallel", "DDP"}:
                content = engine.content(value)
                result = join(result, Value(content.labels, tags=content.tags, lossy=content.lossy, step=content.step))
    if arguments and (name in STACKS or name in JOINS or name == "array"):
        return stacked(engine, name, arguments[0], result, node, scope)
    return result


def stacked(engine, name, first, result, node, scope) -> Value:
    """What a function gives that puts the elements of its first argument side by side."""
    parts = first.items or next((ref.extra for ref in first.refs if ref.kind == "container"), ())
    if name in JOINS:  # of which only those are numbers that were given an axis for it
        written = getattr(node.args[0], "elts", ()) if node.args else ()
        parts = tuple(one for one, how in zip(parts or (), written, strict=False) if _is_widened(how))
    tags = engine.side_by_side(parts, node, scope) if isinstance(parts, tuple) else NONE
    if not tags:
        return result
    step = engine.sides[node]
    return Value(result.labels, result.refs, UNKNOWN, None, united(result.tags, tags), result.lossy, step)


def _is_widened(node) -> bool:
    """Whether an expression gives a tensor one more axis: x[..., None], x.unsqueeze(-1)."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", "")
        return name in ("unsqueeze", "expand_dims", "reshape", "view")
    index = node.slice if isinstance(node, ast.Subscript) else None
    parts = index.elts if isinstance(index, ast.Tuple) else ()
    return any(isinstance(part, ast.Constant) and part.value is None for part in parts)


def _last(node) -> str:
    callee = getattr(node, "func", None)
    return getattr(callee, "attr", getattr(callee, "id", ""))


def _negative(node) -> bool:
    for one in node.args:
        if isinstance(one, ast.UnaryOp) and isinstance(one.op, ast.USub):
            return True
    return any(isinstance(one.value, ast.UnaryOp) and one.arg in ("shifts", "shift") for one in node.keywords)


def _gram(node) -> bool:
    from harness.compliance.flow_engine import gram

    return bool(node.args) and isinstance(node.func, ast.Attribute) and gram(node.func.value, node.args[0])


def _gram_of(node) -> bool:
    from harness.compliance.flow_engine import gram

    return len(node.args) > 1 and gram(node.args[0], node.args[1])


def _gram_arguments(node) -> bool:
    from harness.compliance.flow_engine import gram

    arguments = [one for one in node.args if not isinstance(one, ast.Constant)]
    if len(arguments) == 2 and len(node.args) == 3 and ast.dump(arguments[0]) == ast.dump(arguments[1]):
        return True
    return any(gram(one, other) for one, other in itertools.pairwise(arguments))
