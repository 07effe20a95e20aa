"""Every private torch import, in one place, so that an upstream move is a one-line fix."""

import torch._inductor
from torch._dispatch.python import enable_python_dispatcher as enable_python_dispatcher
from torch._ops import OpOverload as OpOverload
from torch._ops import OpOverloadPacket as OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx as make_fx
from torch.fx.experimental.symbolic_shapes import statically_known_true as statically_known_true
from torch.fx.traceback import annotate as annotate
from torch.fx.traceback import preserve_node_meta as preserve_node_meta
from torch.fx.traceback import set_current_meta as set_current_meta
from torch.utils._pytree import TreeSpec as TreeSpec
from torch.utils._pytree import keystr as keystr
from torch.utils._pytree import tree_flatten as tree_flatten
from torch.utils._pytree import tree_leaves_with_path as tree_leaves_with_path
from torch.utils._pytree import tree_map as tree_map
from torch.utils._pytree import tree_map_only as tree_map_only
from torch.utils._pytree import tree_unflatten as tree_unflatten

compile_graph = torch._inductor.compile
