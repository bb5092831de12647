//! What a network's list of parameters is written in: names, axes, roles and first values.
//!
//! A family's list is its `schema` ([`super::vit::schema`] for the vision transformer), and the only place where a
//! parameter's name is spelled. Everything above reads roles and axes, never a name's parts.

use std::sync::Arc;

use crate::tensor::Init;

/// The numbers that the axes of parameters grow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Transformer blocks.
    pub depth: usize,
    /// Embedding dimension.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Hidden units of an MLP.
    pub hidden: usize,
}

/// How one axis of a parameter grows with [`Dims`]: all that width slicing needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// The residual stream: `width`.
    Width,
    /// Channels of all query heads: `heads * head_dim`.
    Inner,
    /// Channels of all key or all value heads: `kv_heads * head_dim`.
    KeyValue,
    /// Hidden units of the MLP: `hidden`.
    Hidden,
    /// The same at every size.
    Fixed(usize),
    /// Axes one after the other, as in a fused projection. A slice takes the first of each part.
    Fused(&'static [Self]),
}

impl Axis {
    /// Lengths of the parts that are sliced separately.
    pub fn parts(self, dims: &Dims) -> Vec<usize> {
        match self {
            Self::Fused(axes) => axes.iter().flat_map(|axis| axis.parts(dims)).collect(),
            Self::Width => vec![dims.width],
            Self::Inner => vec![dims.heads * dims.head_dim],
            Self::KeyValue => vec![dims.kv_heads * dims.head_dim],
            Self::Hidden => vec![dims.hidden],
            Self::Fixed(length) => vec![length],
        }
    }

    /// Length of the axis.
    pub fn len(self, dims: &Dims) -> usize {
        self.parts(dims).into_iter().sum()
    }
}

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Weights of a linear layer.
    Matrix,
    /// Bias of a linear layer.
    Bias,
    /// Scale of a norm.
    Scale,
    /// Shift of a norm.
    Shift,
    /// The token whose last state is classified.
    ClassToken,
    /// Position embedding.
    Positions,
    /// Weights of the patch projection.
    PatchKernel,
    /// Weights of the classifier, a row for each class.
    Head,
    /// Bias of the classifier.
    HeadBias,
}

impl Role {
    /// Whether weight decay applies, by timm's rule: to matrices; not to biases, norms, positions or tokens.
    pub const fn decays(self) -> bool {
        match self {
            Self::Matrix | Self::PatchKernel | Self::Head => true,
            Self::Bias | Self::Scale | Self::Shift | Self::ClassToken | Self::Positions | Self::HeadBias => {
                false
            }
        }
    }

    /// Whether it is a norm's.
    pub const fn of_norm(self) -> bool {
        matches!(self, Self::Scale | Self::Shift)
    }

    /// Whether it is the classifier's.
    pub const fn of_head(self) -> bool {
        matches!(self, Self::Head | Self::HeadBias)
    }
}

/// One parameter of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name on disk; of a layer's parameter without the layer's prefix.
    pub name: String,
    /// Axes in storage order.
    pub axes: Vec<Axis>,
    /// What it is for.
    pub role: Role,
    /// Values of a network that inherits nothing.
    pub init: Init,
}

impl Spec {
    /// Scale and shift of the norm called `module`.
    pub(super) fn norm(module: &str, axis: Axis) -> [Self; 2] {
        [
            Self::vector(&format!("{module}.{WEIGHT}"), axis, Role::Scale, Init::Ones),
            Self::vector(&format!("{module}.{BIAS}"), axis, Role::Shift, Init::Zeros),
        ]
    }

    /// Weights and bias of the linear layer called `module`: uniform values by Glorot and Bengio's rule, with the rows
    /// of a part of a fused layer as its outputs; a bias of zeros.
    pub(super) fn linear(module: &str, rows: Axis, cols: Axis, dims: &Dims) -> [Self; 2] {
        let outputs = rows.parts(dims).first().copied().unwrap_or_default();
        let matrix = Self {
            name: format!("{module}.{WEIGHT}"),
            axes: vec![rows, cols],
            role: Role::Matrix,
            init: Init::glorot(cols.len(dims), outputs),
        };
        [matrix, Self::vector(&format!("{module}.{BIAS}"), rows, Role::Bias, Init::Zeros)]
    }

    pub(super) fn vector(name: &str, axis: Axis, role: Role, init: Init) -> Self {
        Self { name: name.to_owned(), axes: vec![axis], role, init }
    }

    /// Shape of the parameter in a network of these dimensions.
    pub fn shape(&self, dims: &Dims) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.len(dims)).collect()
    }

    /// Its name and its shape in a network of these dimensions.
    pub fn named_shape(self, dims: &Dims) -> (String, Vec<usize>) {
        let shape = self.shape(dims);
        (self.name, shape)
    }

    /// Number of its values.
    pub fn elem_count(&self, dims: &Dims) -> usize {
        self.shape(dims).iter().product()
    }
}

/// Last part of the name of weights and of scales.
pub(super) const WEIGHT: &str = "weight";
/// Last part of the name of biases and of shifts.
pub(super) const BIAS: &str = "bias";

/// Every parameter of a network, in file order: stem, layers, tail.
#[derive(Debug, Clone)]
pub struct Schema {
    /// What the axes grow with.
    pub dims: Dims,
    /// First part of the names of layers.
    pub prefix: &'static str,
    /// Before the layers.
    pub stem: Vec<Spec>,
    /// Of each layer, without its prefix.
    pub layers: Vec<Arc<[Spec]>>,
    /// After the layers.
    pub tail: Vec<Spec>,
}

impl Schema {
    /// Every parameter under its full name.
    pub fn specs(&self) -> Vec<Spec> {
        let layers = self.layers.iter().enumerate().flat_map(|(index, layer)| {
            layer.iter().map(move |spec| Spec { name: self.layer_name(index, &spec.name), ..spec.clone() })
        });
        self.stem.iter().cloned().chain(layers).chain(self.tail.iter().cloned()).collect()
    }

    /// The parameters outside the layers.
    pub fn shared(&self) -> impl Iterator<Item = &Spec> {
        self.stem.iter().chain(&self.tail)
    }

    /// Name of the parameter `parameter` of layer `index`.
    pub fn layer_name(&self, index: usize, parameter: &str) -> String {
        layer_name(self.prefix, index, parameter)
    }

    /// Names and shapes of every parameter.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.specs().into_iter().map(|spec| spec.named_shape(&self.dims)).collect()
    }

    /// Number of values of all parameters.
    pub fn parameters(&self) -> u64 {
        let layers = self.layers.iter().flat_map(|layer| layer.iter());
        self.shared().chain(layers).map(|spec| spec.elem_count(&self.dims) as u64).sum()
    }
}

/// Name of the parameter `parameter` of layer `index` of the layers called `prefix`.
pub(super) fn layer_name(prefix: &str, index: usize, parameter: &str) -> String {
    format!("{prefix}.{index}.{parameter}")
}
