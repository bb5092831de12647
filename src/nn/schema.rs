//! The terms in which a network lists its parameters: names, axes, roles and initial values.
//!
//! Each model family lists its parameters in one `schema` ([`super::vit::schema`] for the vision transformer), the only
//! place where parameter names are spelled. Callers read roles and axes; they never parse a name.

use std::sync::Arc;

use crate::tensor::Init;

/// The sizes that determine how long the axes of parameters are.
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

/// How the length of one axis of a parameter follows from [`Dims`]. Width slicing needs nothing else.
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
    /// Several axes joined end to end, as in a fused projection. A slice takes the first indices of each part.
    Fused(&'static [Self]),
}

impl Axis {
    /// Lengths of the parts that are sliced separately.
    pub fn parts(self, dims: &Dims) -> Vec<usize> {
        match self {
            Self::Fused(axes) => axes.iter().map(|axis| axis.len(dims)).collect(),
            Self::Width | Self::Inner | Self::KeyValue | Self::Hidden | Self::Fixed(_) => {
                vec![self.len(dims)]
            }
        }
    }

    /// Length of the axis.
    #[inline]
    pub fn len(self, dims: &Dims) -> usize {
        match self {
            Self::Fused(axes) => axes.iter().map(|axis| axis.len(dims)).sum(),
            Self::Width => dims.width,
            Self::Inner => dims.heads * dims.head_dim,
            Self::KeyValue => dims.kv_heads * dims.head_dim,
            Self::Hidden => dims.hidden,
            Self::Fixed(length) => length,
        }
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
    /// The token whose final state is classified.
    ClassToken,
    /// Position embedding.
    Positions,
    /// Weights of the patch projection.
    PatchKernel,
    /// Weights of the classifier, a row for each class.
    Head,
    /// Bias of the classifier.
    HeadBias,
    /// Rows that are looked up: words, positions or segments of a text.
    Table,
    /// Projection of a text's vector.
    Projection,
}

impl Role {
    /// Whether weight decay applies. As in timm, it applies to matrices but not to biases, norms, positions or tokens.
    pub const fn decays(self) -> bool {
        match self {
            Self::Matrix | Self::PatchKernel | Self::Head => true,
            Self::Bias
            | Self::Scale
            | Self::Shift
            | Self::ClassToken
            | Self::Positions
            | Self::HeadBias
            | Self::Table
            | Self::Projection => false,
        }
    }

    /// Whether the parameter belongs to a norm.
    pub const fn of_norm(self) -> bool {
        matches!(self, Self::Scale | Self::Shift)
    }

    /// Whether the parameter belongs to the classifier.
    pub const fn of_head(self) -> bool {
        matches!(self, Self::Head | Self::HeadBias)
    }
}

/// One parameter of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name on disk. A layer's parameter is named without the prefix of the layer.
    pub name: String,
    /// Axes in storage order.
    pub axes: Vec<Axis>,
    /// What it is for.
    pub role: Role,
    /// Initial values in a network that inherits nothing.
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

    /// Weights and bias of the linear layer called `module`. The weights follow Glorot and Bengio's rule, with the rows
    /// of one part as fan-out if the layer is fused. The bias is zero.
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

    /// Its name and shape in a network of these dimensions.
    pub fn named_shape(self, dims: &Dims) -> (String, Vec<usize>) {
        let shape = self.shape(dims);
        (self.name, shape)
    }

    /// Number of values.
    pub fn elem_count(&self, dims: &Dims) -> usize {
        self.shape(dims).iter().product()
    }
}

/// Last part of the names of weights and scales.
pub(super) const WEIGHT: &str = "weight";
/// Last part of the names of biases and shifts.
pub const BIAS: &str = "bias";

/// Name of the weights of the module called `module`.
pub fn weight_of(module: &str) -> String {
    format!("{module}.{WEIGHT}")
}

/// Every parameter of a network, in file order: stem, layers, tail.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The sizes that determine how long the axes are.
    pub dims: Dims,
    /// First part of the names of layer parameters.
    pub prefix: &'static str,
    /// Parameters before the layers.
    pub stem: Vec<Spec>,
    /// Parameters of each layer, named without the prefix of the layer.
    pub layers: Vec<Arc<[Spec]>>,
    /// Parameters after the layers.
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

    /// Full name of `parameter` in layer `index`.
    pub fn layer_name(&self, index: usize, parameter: &str) -> String {
        layer_name(self.prefix, index, parameter)
    }

    /// Names and shapes of every parameter.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.specs().into_iter().map(|spec| spec.named_shape(&self.dims)).collect()
    }

    /// Total number of values.
    pub fn parameters(&self) -> u64 {
        let layers = self.layers.iter().flat_map(|layer| layer.iter());
        self.shared().chain(layers).map(|spec| spec.elem_count(&self.dims) as u64).sum()
    }
}

/// Full name of `parameter` in layer `index`, where `prefix` begins the names of all layers.
pub(super) fn layer_name(prefix: &str, index: usize, parameter: &str) -> String {
    format!("{prefix}.{index}.{parameter}")
}
